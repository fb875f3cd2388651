"""The seam of an objective: at which levels a stage is trained, and the loss of each image."""

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
    """What an objective needs of a stage."""

    config: StageConfig

    @property
    def parametrisation(self) -> Parametrisation: ...
    def denoise(self, x: Tensor, sigma: Tensor, cond: Cond) -> Answer: ...


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What an objective drew for a batch: sigma (b,). One that draws more has a subclass of tensors, which its loss is given."""

    sigma: Tensor

    def to(self, x: Tensor) -> Self:
        """On the device of x, what is no whole number in its dtype."""
        drawn = {each.name: getattr(self, each.name) for each in fields(self)}
        moved = {
            name: value.to(x) if value.is_floating_point() else value.to(x.device) for name, value in drawn.items()
        }
        return replace(self, **moved)


L = TypeVar("L", bound=Levels)


class Objective(ABC, Generic[L]):
    """What a stage is trained towards. An argument of its `forward`, never a part of it: what an objective needs besides (a
    teacher, see frozen.py) is in no average, checkpoint or bundle."""

    @abstractmethod
    def levels(self, stage: Denoises, u: Tensor) -> L:
        """From uniform u (b,) float64 on the CPU, whose entry k is image k's alone."""

    @abstractmethod
    def loss(self, stage: Denoises, x0: Tensor, cond: Cond, levels: L, draws: Draws) -> Tensor:
        """(b,) of each image; the mean goes down. levels: as drawn, where x0 is."""

    @property
    def judge(self) -> "Objective":
        """The one that validation compares by, which must be the same all through a run."""
        return self

    def check(self, config: StageConfig) -> None:
        """Raises ValueError, one line, for a stage that cannot be trained so. Called on every rank before anything is built."""

    def learn(self, losses: Sequence[Losses], total: Callable[[Tensor], Tensor]) -> None:
        """Takes in this rank's losses of an update that was applied, before the next one draws its levels. total: a tensor summed
        over all ranks, which must learn the same. Called on every rank."""

    def state(self) -> dict[str, Tensor]:
        """What it has learned, by name: part of a checkpoint."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""

    def begin(self, stage: nn.Module) -> None:
        """Changes the weights of a new run, random so far, where it starts from others. Not called where a run is resumed."""
