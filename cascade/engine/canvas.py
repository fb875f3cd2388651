"""What a network really paints where a picture's sides are not its own: a little more on all sides, which is cut off.

A picture of another size than a super-resolution stage's own is continued by its last pixels: the sides suit the network, and it
does not take a photograph's edge for the edge that its training pictures have, which it would paint as a frame.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from stages.config import StageBase

EDGE = 4  # px of the stage's low_res by which a picture is continued


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """size: (height, width) in px of what is painted; inner: of the picture in it, which begins `edge` px from the upper left.
    Height and width are the last two axes of whatever is stored."""

    size: tuple[int, int]
    inner: tuple[int, int]
    edge: int
    factor: int
    scale: int

    @classmethod
    def of(cls, config: StageBase, size: tuple[int, int], *, continued: bool) -> Self:
        """For a stage's picture of `size`; continued: on all sides, not only to suit the network."""
        factor = config.factor
        multiple = math.lcm(config.multiple, factor * config.space.scale)
        edge = EDGE * factor * continued
        height, width = (-(-(side + 2 * edge) // multiple) * multiple for side in size)
        return cls(size=(height, width), inner=size, edge=edge, factor=factor, scale=config.space.scale)

    def continued(self, below: Tensor) -> Tensor:
        """What the stage below stored, by its last pixels, so that this stage makes `size` of it."""
        rows, cols = (
            torch.arange(side // self.factor).sub(self.edge // self.factor).clamp(0, old - 1)
            for side, old in zip(self.size, below.shape[-2:], strict=True)
        )
        return below[..., rows, :][..., cols]

    def cut(self, stored: Tensor) -> Tensor:
        """The picture in what was painted."""
        (height, width), edge = self.inner, self.edge
        return stored[..., edge : edge + height, edge : edge + width].contiguous()

    def cells(self, x0: Tensor) -> Tensor:
        """All cells of x0 that hold something of the picture."""
        rows, cols = (slice(self.edge // self.scale, -(-(self.edge + side) // self.scale)) for side in self.inner)
        return x0[..., rows, cols]
