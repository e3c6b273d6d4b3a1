"""Groups of values with checked types: settings, of which no name is unknown, and the facts of a trained model."""

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt


class Settings(BaseModel):
    """Settings that cannot change once made; unknown names, infinities and values out of range are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Open(BaseModel):
    """Facts of which some are known by name; others may stand beside them."""

    model_config = ConfigDict(frozen=True, extra="allow")


class TrainingFacts(_Open):
    """How training went; None where the file does not say."""

    seconds: NonNegativeFloat | None = None
    stars_per_second: NonNegativeInt | NonNegativeFloat | None = None
    active_latents: NonNegativeInt | None = None
    kl_per_latent: tuple[float, ...] = ()


class DataFacts(_Open):
    """What it was trained on; None where the file does not say."""

    digest: str | None = None
    n_trained_on: NonNegativeInt | None = None
    n_inferred_coefficients: NonNegativeInt | None = None
    n_g_flux_from_table: NonNegativeInt | None = None
    n_g_flux_from_coefficients: NonNegativeInt | None = None
    g_mag_range: tuple[float, float] | None = None
    colour_range: tuple[float, float] | None = None
    release: str | None = None


class Facts(_Open):
    """``provenance.json`` of a trained folder: what a model was made from and with."""

    versions: dict[str, str] = {}
    commit: str | None = None
    data: DataFacts = DataFacts()
    training: TrainingFacts = TrainingFacts()
    credit: str | None = None
