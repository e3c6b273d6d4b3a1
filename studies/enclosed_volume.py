"""Volume of the densest region that holds a share of the stars: a volume that converges as stars are added.

Occupied cells count the sparse edge of a population, which grows with every star. The region that holds, say,
90 % of the stars does not. Densities come from the distance to the k-th nearest star, so no cell is chosen.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.spatial import cKDTree
from scipy.special import gammaln, stdtrit

from scattervae.science.latent_volume.richness import Estimate
from scattervae.seeds import numpy_stream

N_NEIGHBOURS = 20
N_PARTS = 5
LARGEST_PART = 2000


@dataclass(frozen=True)
class EnclosedVolumes:
    """Volumes that hold a share of the stars of two sets, at equal numbers of stars.

    Attributes:
        share: Of each set's stars that lie in its volume.
        n_stars: Stars in each of the parts that were measured.
        v_sup: Volume of the labelled stars, mean over parts, in prior standard deviations to the power of the
            dimensions.
        v_unsup: The same of the unlabelled.
        difference: Of the two, relative to `v_sup`.
    """

    share: float
    n_stars: int
    v_sup: float
    v_unsup: float
    difference: Estimate


def enclosed_volume(
    z: Float64[np.ndarray, "star latent"], *, share: float = 0.9, n_neighbours: int = N_NEIGHBOURS
) -> float:
    r"""Volume of the region of highest density that holds this share of the stars.

    With :math:`r_i` the distance of star i to its k-th neighbour, :math:`\hat p_i = k / ((N - 1) V_d r_i^d)`,
    summed over the densest stars:

    .. math:: \frac1N \sum_i \frac{1}{\hat p_i}

    Of normal populations of 1,000 to 10,000 stars it is 2 to 3 % too small in two dimensions and 11 to 19 %
    in five or six; equal numbers cancel most of that in a ratio.

    Args:
        z: Latents; more than `n_neighbours` stars.
        share: Of the stars, in (0, 1].
        n_neighbours: k.

    Source:
        Loftsgaarden & Quesenberry (1965), Ann. Math. Statist. 36, 1049, for the density; Hyndman (1996), Am.
        Statist. 50, 120, for the region.
    """
    n, d = len(z), z.shape[1]
    distance = cKDTree(z).query(z, n_neighbours + 1)[0][:, -1]
    log_ball = 0.5 * d * math.log(math.pi) - float(gammaln(0.5 * d + 1))
    inverse_density = np.sort(math.exp(log_ball) * distance**d * (n - 1) / n_neighbours)
    return float(inverse_density[: math.ceil(share * n)].sum()) / n


def compare_enclosed(
    labelled: Float64[np.ndarray, "labelled latent"],
    unlabelled: Float64[np.ndarray, "unlabelled latent"],
    *,
    share: float = 0.9,
    seed: int = 0,
) -> EnclosedVolumes | None:
    """Volumes that hold a share of each set, from five disjoint parts of either; None below 200 stars.

    Both sets are cut to as many stars, 2,000 a part at most. The interval is Student's, from the scatter of
    the log ratio over parts.

    Args:
        labelled: Latents of one set, finite.
        unlabelled: Latents of the other.
        share: Of the stars, in (0, 1].
        seed: Of the choice of parts, which does not depend on the order of the stars.
    """
    n = min(len(labelled) // N_PARTS, len(unlabelled) // N_PARTS, LARGEST_PART)
    if n < 2 * N_NEIGHBOURS:
        return None
    volumes = []
    for name, z in (("labelled", labelled), ("unlabelled", unlabelled)):
        order = numpy_stream(seed, "enclosed", name).permutation(len(z))
        chosen = z[np.lexsort(z.T)][order[: n * N_PARTS]]
        volumes.append([enclosed_volume(part, share=share) for part in np.split(chosen, N_PARTS)])
    sup, unsup = np.array(volumes)
    log_ratio = np.log(unsup / sup)
    ratio, sd = math.exp(log_ratio.mean()), float(log_ratio.std(ddof=1)) / math.sqrt(N_PARTS)
    spread = math.exp(float(stdtrit(N_PARTS - 1, 0.975)) * sd)
    return EnclosedVolumes(
        share=share,
        n_stars=n,
        v_sup=float(sup.mean()),
        v_unsup=float(unsup.mean()),
        difference=Estimate(ratio - 1, ratio * sd, ratio / spread - 1, ratio * spread - 1),
    )
