"""Where in the latent space the labelled stars lie, and how far a star is from them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from scattervae.arrays import LabelArray, StarArray, StarMask
from scattervae.model.posterior import Posterior
from scattervae.seeds import numpy_stream

NEIGHBOURS = 10
RELIABLE_ABOVE = 0.01
MOST_STARS = 10_000

LatentArray = Float64[np.ndarray, "star latent"]


class LabelledVolume(NamedTuple):
    """The latents of labelled stars."""

    latents: LatentArray  # posterior means of at most `MOST_STARS` of them
    # from each to the tenth nearest of the others that have the label; NaN where it has not the label
    # itself
    distances: LabelArray
    widths: StarArray  # widths of the posteriors of all of them, in ascending order

    @classmethod
    def of(
        cls, posterior: Posterior, known: Bool[np.ndarray, "star label"], *, seed: int
    ) -> "LabelledVolume":
        """The volume of these stars.

        Args:
            posterior: Of labelled stars that can be encoded.
            known: Which labels each has; every label some star.
        """
        rows = np.sort(numpy_stream(seed, "volume").permutation(len(known))[:MOST_STARS])
        latents, known = _means(posterior)[rows], known[rows]
        distances = np.full(known.shape, np.nan)
        for columns, stars in _patterns(known):
            distance = _to_neighbour(latents[stars], latents[stars], itself=1)
            distances[np.ix_(stars, columns)] = distance[:, None]
        return cls(latents, distances, np.sort(widths_of(posterior)))

    def reliability(self, posterior: Posterior) -> LabelArray:
        r"""How ordinary a star's place is among the stars that have the label: 1 amid them, near 0 far away.

        .. math:: r = \frac{1 + \#\{i : d_i \ge d\}}{1 + n}

        d is the distance to the tenth nearest star with the label, d_i that of such a star to its own tenth
        neighbour. For a star drawn as the labelled ones are, r is uniform: it lies below 0.01 for one in a
        hundred. NaN for a star that could not be encoded, 0 where hardly any star has the label.

        Source:
            A conformal p-value: Vovk, Gammerman & Shafer (2005), sect. 2.2, with the distance of Ramaswamy et al.
            (2000), SIGMOD 29, 427.
        """
        means = _means(posterior)
        usable = np.isfinite(means).all(axis=1)
        reliability = np.full((len(means), self.distances.shape[1]), np.nan)
        for columns, stars in _patterns(np.isfinite(self.distances)):
            distance = _to_neighbour(self.latents[stars], means[usable], itself=0)
            share = _share_at_least(np.sort(self.distances[stars, columns[0]]), distance)
            reliability[np.ix_(usable, columns)] = np.where(np.isfinite(distance), share, 0.0)[:, None]
        return reliability

    def width_rank(self, posterior: Posterior) -> StarArray:
        """Share of labelled stars whose posterior is at least as wide: near 0 where little is known of a star."""
        widths = widths_of(posterior)
        ranks: StarArray = np.where(np.isfinite(widths), _share_at_least(self.widths, widths), np.nan)
        return ranks


def widths_of(posterior: Posterior) -> StarArray:
    """Root mean square over latents of the posterior's widths; 1 where nothing is known of a star."""
    widths: StarArray = posterior.variance.double().mean(dim=-1).sqrt().numpy()
    return widths


def _means(posterior: Posterior) -> LatentArray:
    means: LatentArray = posterior.mean.double().numpy()
    return means


def _patterns(known: Bool[np.ndarray, "star label"]) -> list[tuple[np.ndarray, StarMask]]:
    """Labels that the same stars have, with those stars."""
    patterns, which = np.unique(known, axis=1, return_inverse=True)
    which = which.reshape(-1)
    return [(np.flatnonzero(which == index), pattern) for index, pattern in enumerate(patterns.T)]


def _to_neighbour(
    stars: LatentArray, at: Float64[np.ndarray, "query latent"], *, itself: int
) -> Float64[np.ndarray, " query"]:
    """Distance from each of them to its tenth nearest star; infinite where there are fewer.

    Args:
        stars: Among which neighbours are looked for.
        itself: 1 where each is one of the stars, which is not its own neighbour.
    """
    from scipy.spatial import cKDTree

    distances: np.ndarray = cKDTree(stars).query(at, k=[NEIGHBOURS + itself])[0][:, 0]
    return distances


def _share_at_least(
    ascending: StarArray, values: Float64[np.ndarray, " value"]
) -> Float64[np.ndarray, " value"]:
    at_least = len(ascending) - np.searchsorted(ascending, values, side="left")
    share: np.ndarray = (1.0 + at_least) / (1.0 + len(ascending))
    return share
