"""The seam of an objective: at which levels a stage is trained, and the loss of each image."""

from typing import Protocol

from torch import Tensor

from data.batch import Cond

from ..config import StageConfig
from ..diffusion.parametrisation import Parametrisation
from ..diffusion.samplers import Answer
from ..draws import Draws


class Denoises(Protocol):
    """What an objective needs of a stage."""

    config: StageConfig

    @property
    def parametrisation(self) -> Parametrisation: ...
    def denoise(self, x: Tensor, sigma: Tensor, cond: Cond) -> Answer: ...


class Objective(Protocol):
    """An argument of a stage's `forward`, never a part of the stage: what it learns on the way is the run's."""

    def levels(self, stage: Denoises, u: Tensor) -> tuple[Tensor, Tensor | None]: ...
    def loss(self, stage: Denoises, x0: Tensor, cond: Cond, sigma: Tensor, draws: Draws) -> Tensor: ...
