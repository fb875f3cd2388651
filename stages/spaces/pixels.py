"""The pixel space: x0 is the picture (b, c, h, w) in [-1, 1]."""

import torch
from torch import Tensor

from data.batch import to_float, to_uint8
from data.resize import downsample, upsample

from .pixels_config import PixelsConfig
from .space import Size


class Pixels:
    """Pictures as they are; implements `Space`."""

    bounds = (-1.0, 1.0)

    def __init__(self, config: PixelsConfig):
        self.config = config

    def read(self, stored: Tensor, size: Size, flipped: Tensor | None = None) -> Tensor:
        """Convert uint8 (b, c, H, W) of a shard, or float32 of its levels, to x0 (b, c, *size), downsampled, and
        mirrored where `flipped`."""
        return self.mirrored(downsample(to_float(stored), (size[0], size[1])), flipped)

    def mirrored(self, x: Tensor, flipped: Tensor | None) -> Tensor:
        """Exchange left and right where flipped (b,) is True; None: nowhere."""
        return x if flipped is None else torch.where(flipped.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)

    def load(self, stored: Tensor) -> Tensor:
        """Convert uint8 to [-1, 1]."""
        return to_float(stored)

    def store(self, x: Tensor) -> Tensor:
        """Round to the nearest uint8 levels on the CPU; values outside [-1, 1] are clipped."""
        return to_uint8(x).cpu()

    def down(self, x: Tensor, size: Size) -> Tensor:
        """Downsample to `size` with THE kernel."""
        return downsample(x, (size[0], size[1]))

    def up(self, x: Tensor, size: Size) -> Tensor:
        """Upsample to `size` with THE kernel."""
        return upsample(x, (size[0], size[1]))

    def windows(self, tensors: tuple[Tensor, ...], size: int, corners: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Cut the same window of `size` px a side from each tensor, image by image; corners: rows and columns (b,) of the upper
        left."""
        spans = [(..., slice(r, r + size), slice(c, c + size)) for r, c in zip(*corners, strict=True)]
        return tuple(
            torch.stack([image[span] for image, span in zip(tensor, spans, strict=True)]) for tensor in tensors
        )

    def show(self, stored: Tensor) -> Tensor:
        """The stored picture itself."""
        return stored
