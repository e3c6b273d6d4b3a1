"""What is known against a star, and where its G flux comes from."""

from enum import IntEnum, IntFlag

import numpy as np

from scattervae.arrays import StarFlags, StarMask


class Flag(IntFlag):
    """What is known against a star, as bits of its ``flags`` column; 0 means nothing."""

    MISSING_BP = 1
    MISSING_RP = 2
    BAD_COEFFS = 4
    BAD_ERRORS = 8
    NO_G_FLUX = 16
    DUPLICATE = 32
    INFERRED = 64

    @property
    def meaning(self) -> str:
        """One sentence for tables, logs and documentation."""
        return _FLAG_MEANINGS[self]


_FLAG_MEANINGS = {
    Flag.MISSING_BP: "the star has no BP coefficients",
    Flag.MISSING_RP: "the star has no RP coefficients",
    Flag.BAD_COEFFS: (
        "a coefficient is not finite, a band has the wrong number of them or contradicts its fit, "
        "or a sampled spectrum is not one of Gaia's"
    ),
    Flag.BAD_ERRORS: "a coefficient error is not finite, zero or negative",
    Flag.NO_G_FLUX: "no positive and plausible G flux in the table, nor a positive one from the coefficients",
    Flag.DUPLICATE: "another row of the same source_id is used instead",
    Flag.INFERRED: "coefficients inferred from a sampled spectrum, not published (the star is used)",
}
ONE_BAND = Flag.MISSING_BP | Flag.MISSING_RP
UNUSABLE = ONE_BAND | Flag.BAD_COEFFS | Flag.BAD_ERRORS | Flag.NO_G_FLUX | Flag.DUPLICATE


def usable_stars(flags: StarFlags, *, one_band: bool = False) -> StarMask:
    """Stars with finite coefficients, positive errors, a G flux, and no better twin.

    Args:
        flags: Bits of `Flag` of each star.
        one_band: One band is enough; otherwise both are needed.
    """
    bands = flags & np.uint16(ONE_BAND)
    if not one_band:
        return np.asarray((flags & np.uint16(UNUSABLE)) == 0)
    return np.asarray(((flags & np.uint16(UNUSABLE)) == bands) & (bands != np.uint16(ONE_BAND)))


class GFluxSource(IntEnum):
    """Where a star's G flux comes from."""

    NONE = 0
    TABLE = 1
    COEFFICIENTS = 2


def flag_counts(flags: StarFlags) -> dict[str, int]:
    """How many stars carry each flag, by the flag's name; flags that no star carries are left out."""
    counts = {str(flag.name): int(((flags & np.uint16(flag)) > 0).sum()) for flag in Flag}
    return {name: n for name, n in counts.items() if n}
