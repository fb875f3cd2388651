"""The config of a base stage."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from .config import StageBase


class BaseConfig(StageBase):
    """p(x0 | cond) at `resolution`."""

    implementation: ClassVar[str] = "stages.kinds.base:BaseStage"
    kind: Literal["base"] = "base"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self._check_multiple("resolution", self.resolution)
        return self
