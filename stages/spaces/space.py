"""The seam of a space: what x0 stands for, between shards, stages and people. Only spaces, networks and pictures know the axes."""

from typing import Protocol

from torch import Tensor

Size = tuple[int, ...]
"""Of one x0 along the space's axes, without batch and channels: (height, width) of pictures."""


class Space(Protocol):
    """x0 (b, c, *size) float32; the last two axes are height and width, an axis of time comes before them.

    `stored` (b, c, ..., h, w) is what goes from stage to stage, and what is held: uint8 on the CPU, sides in px. read: x0 of
    a shard's pictures by THE downsample to `size`; flipped (b,): which of them are mirrored, as pictures, for a mirrored x0
    may be the x0 of no picture. show: what a person sees of what is stored, uint8 (b, c, h, w).
    """

    bounds: tuple[float, float]

    def read(self, stored: Tensor, size: Size, flipped: Tensor | None = None) -> Tensor: ...
    def mirrored(self, x: Tensor, flipped: Tensor | None) -> Tensor: ...
    def load(self, stored: Tensor) -> Tensor: ...
    def store(self, x: Tensor) -> Tensor: ...
    def down(self, x: Tensor, size: Size) -> Tensor: ...
    def up(self, x: Tensor, size: Size) -> Tensor: ...
    def windows(self, tensors: tuple[Tensor, ...], size: int, corners: tuple[Tensor, ...]) -> tuple[Tensor, ...]: ...
    def show(self, stored: Tensor) -> Tensor: ...
