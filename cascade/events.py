"""What a user sees of sampling, in order. The grammar, for each chunk of images and each stage of the chain:

    ((StageStarted Preview+ StageFinished)+)+ Finished

Pictures are uint8 (b, c, h, w) on the CPU; `index` tells which images of the request the rows are. Work of another kind has events
of its own besides; who listens lets pass what he does not know.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stages.spaces.space import Space

from .engine.canvas import Canvas


class Event:
    """What work tells on its way."""


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """nfe: how many answers this stage will need for these images."""

    stage: str
    index: tuple[int, ...]
    nfe: int


@dataclass(frozen=True, kw_only=True)
class Preview(Event):
    """The pictures as they stand after `step` of `nfe` network calls, never the noisy x.

    Every call gives one; it costs nothing until `images` is asked for. painted: x0_hat of all that the canvas has.
    """

    stage: str
    index: tuple[int, ...]
    step: int
    nfe: int
    painted: Tensor
    canvas: Canvas
    space: Space

    @property
    def x0_hat(self) -> Tensor:
        """(b, c, *size) of the pictures themselves."""
        return self.canvas.cells(self.painted)

    @property
    def images(self) -> Tensor:
        return self.space.show(self.canvas.cut(self.space.store(self.painted)))


@dataclass(frozen=True, kw_only=True)
class StageFinished(Event):
    """The stage's pictures, as its space shows them; those of the last stage are the result."""

    stage: str
    index: tuple[int, ...]
    images: Tensor
    last: bool


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """Nothing follows. nfe: network calls, as if this request had been alone."""

    num: int
    nfe: int


Code = Literal["not_finite", "out_of_memory", "network_lost", "internal"]
"""not_finite: a network gave NaN or infinity. out_of_memory: not even one image fits. network_lost: the process that holds it went,
several times. internal: a defect, whose traceback is in the log."""


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """Sampling cannot go on. Nothing follows; other requests go on. message: for people; code: for programs."""

    stage: str
    message: str
    code: Code = "internal"


@dataclass(frozen=True, kw_only=True)
class Cancelled(Event):
    """Nothing follows."""
