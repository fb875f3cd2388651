"""The configs of the laws of training levels, by their name in the YAML. Add a new one here."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, Self, TypeAlias

from pydantic import model_validator

from ..diffusion.laws import LINEAR_MAX
from ..noise_config import NoiseConfig
from ..strict import Choice, Level, PositiveFloat

if TYPE_CHECKING:
    from torch import Tensor

    Law: TypeAlias = Callable[[Tensor], Tensor]
    """Maps uniform u (b,) float64 in [0, 1) to sigma (b,), rising."""


class LawConfig(Choice):
    """Base of the configs in `LAWS`; its keys are the options of its function."""

    def law(self, noise: NoiseConfig) -> "Law":
        """The law, for a stage with this `noise`."""
        return partial(self.loaded(), **self.model_dump(exclude={"kind"}))


class LognormalConfig(LawConfig):
    """log(sigma) ~ N(noise.mean, noise.std^2): the stage's own law."""

    implementation: ClassVar[str] = "stages.diffusion.laws:lognormal"
    kind: Literal["lognormal"] = "lognormal"

    def law(self, noise: NoiseConfig) -> "Law":
        """The law with the stage's numbers."""
        return partial(self.loaded(), mean=noise.mean, std=noise.std)


class LogitNormalConfig(LawConfig):
    """logit(t) ~ N(mean, std^2) for the time t of a flow."""

    implementation: ClassVar[str] = "stages.diffusion.laws:logit_normal"
    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: PositiveFloat = 1.0


class RangeConfig(LawConfig):
    """A law cut to low < sigma < high."""

    low: Level = 0.002
    high: Level = 80.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class LogUniformConfig(RangeConfig):
    """log(sigma) uniform."""

    implementation: ClassVar[str] = "stages.diffusion.laws:log_uniform"
    kind: Literal["log_uniform"] = "log_uniform"


class CosineConfig(RangeConfig):
    """The cosine schedule with uniform time."""

    implementation: ClassVar[str] = "stages.diffusion.laws:cosine"
    kind: Literal["cosine"] = "cosine"


class LinearConfig(RangeConfig):
    """The linear beta schedule with uniform time."""

    implementation: ClassVar[str] = "stages.diffusion.laws:linear"
    kind: Literal["linear"] = "linear"

    @model_validator(mode="after")
    def _reached(self) -> Self:
        if self.high > LINEAR_MAX:
            raise ValueError(f"high {self.high} is above {LINEAR_MAX:.1f}, where the linear schedule ends; lower it")
        return self


LAWS: dict[str, type[LawConfig]] = {
    "lognormal": LognormalConfig,
    "logit_normal": LogitNormalConfig,
    "log_uniform": LogUniformConfig,
    "cosine": CosineConfig,
    "linear": LinearConfig,
}
