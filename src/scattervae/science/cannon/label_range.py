"""The labels that a Cannon was trained on: their scale, their convex hull, and some far from each other."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial import ConvexHull

from scattervae.arrays import LabelArray, StarMask
from scattervae.errors import DataError
from scattervae.science.cannon.polynomial import ScaledLabels, n_features

_N_CORNERS = 64
_NO_SPREAD = 1e-12  # of the mean: what rounding leaves of the standard deviation of equal numbers
_ON_A_FACE = 1e-9  # in standard deviations: rounding puts a corner of the hull on either side
_ROWS = 4096


@dataclass(frozen=True)
class LabelRange:
    """Where the labels of the training stars lie.

    Attributes:
        mean: Mean of each label, in the label's unit.
        std: Standard deviation of each, same unit; labels are scaled by these two.
        faces: Outward normal and offset of each face of the convex hull of the scaled labels.
        corners: Scaled labels of training stars far from each other: starts for a search.
    """

    mean: Float64[np.ndarray, " label"]
    std: Float64[np.ndarray, " label"]
    faces: Float64[np.ndarray, "face side"]
    corners: Float64[np.ndarray, "corner label"]

    @classmethod
    def of(cls, values: LabelArray, names: tuple[str, ...]) -> "LabelRange":
        """The range of these training labels, none missing.

        Raises:
            DataError: Too few stars for a quadratic, or a label that is the same in all.
        """
        n_stars, n_terms = len(values), n_features(len(names))
        if n_stars < 2 * n_terms:
            raise DataError(
                f"{n_stars} usable stars have all of {', '.join(names)}; a quadratic in {len(names)} labels "
                f"has {n_terms} terms and needs at least {2 * n_terms} stars: give more stars or fewer labels"
            )
        mean, std = values.mean(axis=0), values.std(axis=0)
        for name, middle, spread in zip(names, mean, std, strict=True):
            if not spread > _NO_SPREAD * abs(middle):
                raise DataError(f"{name} is {middle:g} in all {n_stars} training stars; leave it out")
        scaled = (values - mean) / std
        return cls(mean=mean, std=std, faces=_faces(scaled), corners=_corners(scaled))

    def scaled(self, values: LabelArray) -> ScaledLabels:
        """Labels in the training stars' standard deviations from their mean."""
        return torch.from_numpy((values - self.mean) / self.std)

    def scaled_errors(self, errors: LabelArray) -> ScaledLabels:
        """Label errors in the training stars' standard deviations."""
        return torch.from_numpy(errors / self.std)

    def unscaled(self, scaled: ScaledLabels) -> LabelArray:
        """Labels in their units; the inverse of `scaled`."""
        values: LabelArray = scaled.numpy() * self.std + self.mean
        return values

    def outside(self, values: LabelArray) -> StarMask:
        """True for labels outside the convex hull of the training labels: the polynomial extrapolates there.

        The hull has no holes: between dwarfs and giants it holds labels that no training star has. False
        where a label is missing.
        """
        scaled = (values - self.mean) / self.std
        outside = np.zeros(len(values), dtype=bool)
        for start in range(0, len(values), _ROWS):  # stars x faces would not fit in memory
            rows = slice(start, start + _ROWS)
            heights = scaled[rows] @ self.faces[:, :-1].T + self.faces[:, -1]
            outside[rows] = (heights > _ON_A_FACE).any(axis=1)
        return outside


def _faces(scaled: LabelArray) -> Float64[np.ndarray, "face side"]:
    if scaled.shape[1] == 1:  # Qhull needs a plane at least; a line has two ends
        return np.array([[1.0, -scaled.max()], [-1.0, scaled.min()]])
    try:
        faces: Float64[np.ndarray, "face side"] = ConvexHull(scaled).equations
    except RuntimeError as error:  # Qhull's own error is one
        reason = " ".join(str(error).split())[:80]
        raise DataError(f"the training labels have no hull, one follows from the others: {reason}") from error
    return np.unique(faces, axis=0)  # Qhull cuts a flat face into triangles


def _corners(scaled: LabelArray) -> Float64[np.ndarray, "corner label"]:
    """The star furthest from the mean, then each time the one furthest from all taken (Gonzalez 1985)."""
    taken = [int(np.square(scaled).sum(axis=1).argmax())]
    distance = np.full(len(scaled), np.inf)
    while len(taken) < min(_N_CORNERS, len(scaled)):
        distance = np.minimum(distance, np.square(scaled - scaled[taken[-1]]).sum(axis=1))
        taken.append(int(distance.argmax()))
    corners: Float64[np.ndarray, "corner label"] = scaled[taken]
    return corners
