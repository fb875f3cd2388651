"""Events of sampling. Their grammar, for each chunk of images and each stage of the chain:

    ((StageStarted Preview+ StageFinished)+)+ Finished

Pictures are uint8 (b, c, h, w) on the CPU; `index` holds the numbers of the images in the request, one per row. Other kinds of work
may emit events of their own; listeners ignore events that they do not know.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stages.spaces.space import Space

from .engine.canvas import Canvas
from .uncertainty import as_picture


class Event:
    """Base class of all events."""


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """A stage begins for a chunk. nfe: number of answers that it needs for these images: network calls, if none is tiled."""

    stage: str
    index: tuple[int, ...]
    nfe: int


@dataclass(frozen=True, kw_only=True)
class Preview(Event):
    """The pictures as estimated after `step` of `nfe` network calls: x0_hat, never the noisy x.

    Every call gives one; it costs nothing until `images` is read. painted: x0_hat on the whole canvas, margins included. unsure:
    where the request asks for it and the stage can tell it, Var(x0 | x) / sigma_data^2 there (uncertainty.py).
    """

    stage: str
    index: tuple[int, ...]
    step: int
    nfe: int
    painted: Tensor
    canvas: Canvas
    space: Space
    unsure: Tensor | None = None

    @property
    def x0_hat(self) -> Tensor:
        """x0_hat of the pictures without the canvas's margins, (b, c, h, w) in the cells of the space."""
        return self.canvas.cells(self.painted)

    @property
    def images(self) -> Tensor:
        """The pictures as uint8 (b, c, h, w), computed at each access."""
        return self.space.show(self.canvas.cut(self.space.store(self.painted)))

    @property
    def uncertainty(self) -> Tensor | None:
        """How unsure each pixel is yet, a gray picture uint8 (b, 3, h, w), computed at each access."""
        return None if self.unsure is None else as_picture(self.unsure, self.canvas)


@dataclass(frozen=True, kw_only=True)
class StageFinished(Event):
    """A stage has finished a chunk: its pictures as uint8. last: the stage is the request's last, so they are the result.
    uncertainty: where the request asks for it and the stage can tell it, how unsure each pixel was at sigma_data, uint8
    (b, 3, h, w).
    """

    stage: str
    index: tuple[int, ...]
    images: Tensor
    last: bool
    uncertainty: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The request is done; the last event. num: images. nfe: network calls, counted as if the request had run alone."""

    num: int
    nfe: int


Code = Literal["not_finite", "out_of_memory", "network_lost", "internal"]
"""not_finite: a network gave NaN or infinity. out_of_memory: not even one image fits. network_lost: the process that holds the
network was lost, several times. internal: a defect, with its traceback in the log."""


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The request failed; the last event. Other requests are not affected. message: for people; code: for programs."""

    stage: str
    message: str
    code: Code = "internal"


@dataclass(frozen=True, kw_only=True)
class Cancelled(Event):
    """The request was cancelled; the last event."""
