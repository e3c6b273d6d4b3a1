"""The parent of every group of settings: frozen, and it refuses a name it does not know."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings that cannot change once made; unknown names, infinities and values out of range are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
