"""The parent of every group of settings: frozen, and it refuses a name it does not know."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings that cannot change once made; an unknown name or a value out of range is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
