"""The canvas: a super-resolution stage computes pictures of other sizes than its own with a margin on all sides, which is cut off.

Its low_res is padded by repeating the border pixels. So the sides suit the network, and it does not mistake the border of a
photograph for the border of its training pictures, which it would paint as a frame.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from data.resize import downsample, upsample
from stages.conditions.position import positions
from stages.config import StageBase

EDGE = 4  # margin on each side, in px of the stage's low_res


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """size: (height, width) in px of the whole canvas. inner: of the picture in it, whose upper left corner is at (edge, edge).
    factor: by which the stage enlarges. scale: px per cell of x0. Height and width are the last two axes of stored pictures."""

    size: tuple[int, int]
    inner: tuple[int, int]
    edge: int
    factor: int
    scale: int

    @classmethod
    def of(cls, config: StageBase, size: tuple[int, int], *, continued: bool) -> Self:
        """The canvas for a stage's picture of `size`. continued: with a margin on all sides, else only padded to sides that the
        network accepts."""
        factor = config.factor
        multiple = math.lcm(config.multiple, factor * config.space.scale)
        edge = EDGE * factor * continued
        height, width = (-(-(side + 2 * edge) // multiple) * multiple for side in size)
        return cls(size=(height, width), inner=size, edge=edge, factor=factor, scale=config.space.scale)

    def continued(self, below: Tensor) -> Tensor:
        """Pad the stored picture of the stage before, repeating its border pixels, so that this stage enlarges it to `size`."""
        rows, cols = (
            torch.arange(side // self.factor).sub(self.edge // self.factor).clamp(0, length - 1)
            for side, length in zip(self.size, below.shape[-2:], strict=True)
        )
        return below[..., rows, :][..., cols]

    def framed(self, stored: Tensor) -> Tensor:
        """Continue stored pictures of the size `inner` over the canvas, repeating their border pixels."""
        rows, cols = (
            torch.arange(side).sub(self.edge).clamp(0, length - 1)
            for side, length in zip(self.size, stored.shape[-2:], strict=True)
        )
        return stored[..., rows, :][..., cols]

    def mapped(self, maps: Tensor) -> Tensor:
        """Maps (b, c, h, w) in [-1, 1] resized to the picture, framed, and shrunk to the cells of x0."""
        whole = self.framed(resize(maps, self.inner))
        return downsample(whole, (self.size[0] // self.scale, self.size[1] // self.scale))

    def positions(self) -> Tensor:
        """Where in the picture each cell of x0 lies, (2, h, w); the margin has the positions of the borders."""
        cells = (self.size[0] // self.scale, self.size[1] // self.scale)
        return positions(cells, (self.inner[0] / self.scale, self.inner[1] / self.scale), self.edge / self.scale)

    def cut(self, stored: Tensor) -> Tensor:
        """Cut the picture out of a stored canvas."""
        (height, width), edge = self.inner, self.edge
        return stored[..., edge : edge + height, edge : edge + width].contiguous()

    def cells(self, x0: Tensor) -> Tensor:
        """The cells of x0 that cover the picture, at least in part."""
        rows, cols = (slice(self.edge // self.scale, -(-(self.edge + side) // self.scale)) for side in self.inner)
        return x0[..., rows, cols]


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (b, c, h, w) by THE downsample where it shrinks, else by THE upsample."""
    shrinks = maps.shape[-2] >= size[0] and maps.shape[-1] >= size[1]
    return downsample(maps, size) if shrinks else upsample(maps, size)
