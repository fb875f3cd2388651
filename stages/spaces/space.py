"""The seam of a space: what x0 stands for, between shards, stages and people. Only spaces, networks and pictures know the axes."""

from typing import Protocol

from torch import Tensor

Size = tuple[int, ...]
"""Of one x0 along the space's axes, without batch and channels: (height, width) of pictures."""


class Space(Protocol):
    """x0 (b, c, *size) float32. `stored` is what goes from stage to stage and to people: uint8 on the CPU."""

    bounds: tuple[float, float]

    def read(self, stored: Tensor, size: Size) -> Tensor: ...  # from a shard's pictures, THE downsample to `size`
    def mirrored(self, x: Tensor) -> Tensor: ...
    def load(self, stored: Tensor) -> Tensor: ...
    def store(self, x: Tensor) -> Tensor: ...
    def down(self, x: Tensor, size: Size) -> Tensor: ...
    def up(self, x: Tensor, size: Size) -> Tensor: ...
    def windows(self, tensors: tuple[Tensor, ...], size: int, corners: tuple[Tensor, ...]) -> tuple[Tensor, ...]: ...
    def show(self, x: Tensor) -> Tensor: ...  # uint8 (b, c, h, w), for a person
