"""Made stars over real ones in a plane: whether what a model makes looks like the survey.

Laroche & Speagle (2023), sect. 2.2, for making stars.
"""

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes

from scattervae.show.style import QUIET, model_colour


def plot_samples(
    axes: Axes,
    real: Float64[np.ndarray, "2 real"],
    made: Float64[np.ndarray, "2 made"],
    *,
    name: str,
    index: int = 0,
    share: float = 0.998,
) -> None:
    """Real stars in grey with made ones over them, on axes that hold nearly all of the real ones.

    Made stars outside the axes are counted in the legend.

    Args:
        axes: Where to draw.
        real: x and y of real stars; same quantities as of the made ones.
        made: x and y of made stars.
        name: Where those come from.
        index: Of their colour.
        share: Of the real stars that lies inside the axes along each of them.
    """
    axes.scatter(real[0], real[1], color=QUIET, s=2.0, alpha=0.6, linewidths=0, label="real")
    limits = [_limits(values, share) for values in real]
    low, high = np.transpose(limits)
    outside = ((low > made.T) | (high < made.T)).any(axis=1)
    label = f"{name} ({100 * outside.mean():.1f} % outside)"
    axes.scatter(made[0], made[1], color=model_colour(index), s=2.0, alpha=0.5, linewidths=0, label=label)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
    axes.legend(loc="lower left", markerscale=3.0, handletextpad=0.2)


def _limits(values: Float64[np.ndarray, " real"], share: float) -> tuple[float, float]:
    """Ends that leave out as few values on either side, with a margin."""
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    margin = 0.15 * (high - low)
    return float(low - margin), float(high + margin)
