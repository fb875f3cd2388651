"""What a network really paints where a picture's sides are not its own: a little more on all sides, which is cut off.

A picture of another size than a super-resolution stage's own is continued by its last pixels: the sides suit the network, and it
does not take a photograph's edge for the edge that its training pictures have, which it would paint as a frame.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from .link import Link

EDGE = 4  # px of the stage's low_res by which a picture is continued


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """size: (height, width) in px of what is painted; inner: of the picture in it, which begins `edge` px from the upper left."""

    size: tuple[int, int]
    inner: tuple[int, int]
    edge: int
    factor: int

    @classmethod
    def of(cls, link: Link, size: tuple[int, int], *, continued: bool) -> Self:
        """For a stage's picture of `size`; continued: on all sides, not only to suit the network."""
        factor = link.stage.config.factor
        multiple = math.lcm(link.sidecar.config.multiple, factor)
        edge = EDGE * factor * continued
        height, width = (-(-(side + 2 * edge) // multiple) * multiple for side in size)
        return cls(size=(height, width), inner=size, edge=edge, factor=factor)

    def continued(self, below: Tensor) -> Tensor:
        """The stage below's picture (b, c, h, w), by its last pixels, so that this stage makes `size` of it."""
        before, (height, width) = self.edge // self.factor, below.shape[-2:]
        below_after = self.size[0] // self.factor - height - before
        right_after = self.size[1] // self.factor - width - before
        return F.pad(below, (before, right_after, before, below_after), mode="replicate")

    def cut(self, x: Tensor) -> Tensor:
        """The picture in what was painted."""
        (height, width), edge = self.inner, self.edge
        return x[..., edge : edge + height, edge : edge + width]
