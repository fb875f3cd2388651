"""The interface of a space: what x0 stands for. Only spaces, networks and picture files know about the axes."""

from typing import Protocol

from torch import Tensor

Size = tuple[int, ...]
"""Sides of one x0 along the space's axes, without batch and channels; of a picture (height, width)."""


class Space(Protocol):
    """x0 is (b, c, *size) float32; the last two axes are height and width, after an axis of time if there is one.

    The *stored* form (b, c, ..., h, w) is what stages hand on and keep: uint8 on the CPU, sides in px.
    """

    bounds: tuple[float, float]

    def read(self, stored: Tensor, size: Size, flipped: Tensor | None = None) -> Tensor:
        """Convert a shard's pictures, uint8 or after a warp float32 of the same levels, to x0 by THE downsample to `size`.

        flipped (b,): which pictures are mirrored; this happens before the conversion, because a mirrored x0 may be no picture's
        x0."""
        ...

    def mirrored(self, x: Tensor, flipped: Tensor | None) -> Tensor:
        """Exchange left and right where flipped (b,) is True; None: nowhere."""
        ...

    def load(self, stored: Tensor) -> Tensor:
        """Convert the stored form to x0."""
        ...

    def store(self, x: Tensor) -> Tensor:
        """Convert x0 to the stored form."""
        ...

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Downsample x0 to `size`."""
        ...

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Upsample x0 to `size`."""
        ...

    def windows(self, tensors: tuple[Tensor, ...], size: int, corners: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Cut the same window of `size` cells a side from each tensor, image by image; corners: rows and columns (b,)."""
        ...

    def show(self, stored: Tensor) -> Tensor:
        """Convert the stored form to pictures, uint8 (b, c, h, w)."""
        ...
