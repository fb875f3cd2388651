"""The interface of an objective: it draws the levels of training and computes the loss of each image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Generic, Protocol, Self, TypeVar

from torch import Tensor, nn

from data.batch import Cond

from ..config import StageConfig
from ..diffusion.parametrisation import Parametrisation
from ..diffusion.samplers import Answer
from ..draws import Draws
from ..losses import Losses


class Denoises(Protocol):
    """What an objective needs from a stage."""

    config: StageConfig

    @property
    def parametrisation(self) -> Parametrisation:
        """The stage's parametrisation."""
        ...

    def denoise(self, x: Tensor, sigma: Tensor, cond: Cond) -> Answer:
        """Estimate x0 from x at sigma (b,) under a cond."""
        ...


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The draws of an objective for a batch: sigma (b,). An objective that draws more defines a subclass with further tensors."""

    sigma: Tensor

    def to(self, x: Tensor) -> Self:
        """Move to the device of x; floating-point tensors also take its dtype."""
        tensors = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        converted = {
            name: value.to(x) if value.is_floating_point() else value.to(x.device) for name, value in tensors.items()
        }
        return replace(self, **converted)


L = TypeVar("L", bound=Levels)


class Objective(ABC, Generic[L]):
    """A training objective. It is an argument of the stage's `forward`, never a submodule: whatever else it needs (a teacher,
    see frozen.py) is in no average, checkpoint or bundle."""

    @abstractmethod
    def levels(self, stage: Denoises, u: Tensor) -> L:
        """Draw levels from uniform u (b,) float64 on the CPU; entry k belongs to image k alone."""

    @abstractmethod
    def loss(self, stage: Denoises, x0: Tensor, cond: Cond, levels: L, draws: Draws) -> Tensor:
        """Loss (b,) of each image; training minimises the mean. levels: as drawn, on the device of x0."""

    @property
    def judge(self) -> "Objective":
        """The objective that validation compares by; it must be the same throughout a run."""
        return self

    def check(self, config: StageConfig) -> None:
        """Raise ValueError, one line, for a stage that this objective cannot train. Every rank calls it before anything is
        built."""

    def learn(self, stage: Denoises, losses: Sequence[Losses], total: Callable[[Tensor], Tensor]) -> None:
        """Learn from this rank's losses of an applied update, before the next one draws its levels. Every rank calls it and must
        arrive at the same result; total: sums a tensor over all ranks."""

    def as_logged(self, stage: Denoises, losses: Losses) -> Tensor:
        """The losses (b,) of which the log shows means by level, float64 on the CPU."""
        return losses.per_image.double().cpu()

    def state(self) -> dict[str, Tensor]:
        """What the objective has learned, by name; part of a checkpoint."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""

    def begin(self, stage: nn.Module) -> None:
        """Initialise the weights of a new run if they should not stay random. Not called on resume."""
