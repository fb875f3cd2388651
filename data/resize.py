"""THE downsample and THE upsample: packing, training, sampling and evaluation call these two and nothing else.

A super-resolution stage learns to undo one exact kernel; a second implementation anywhere (Pillow in the packer, torch
in training) is the stage mismatch that users see as blur or colour shift. The version string is part of every stage's
contract.
"""

import torch.nn.functional as F
from torch import Tensor

RESIZE_VERSION = "bicubic-antialias-1"


def downsample(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(b, c, h, w) float in [-1, 1] to (b, c, *size), size <= (h, w): antialiased bicubic (a = -0.5), half-pixel centres.

    Clipped to [-1, 1]: the kernel overshoots at edges, which a stored picture cannot represent. The same size is the
    identity.
    """
    if size[0] > image.shape[-2] or size[1] > image.shape[-1]:
        raise ValueError(f"downsample: {tuple(image.shape[-2:])} px cannot shrink to {size} px; use a larger picture")
    return image if size == tuple(image.shape[-2:]) else reduced(image, size).clamp(-1, 1)


def reduced(image: Tensor, size: tuple[int, int]) -> Tensor:
    """THE downsample without its clipping, which makes it linear: for signals that are no pictures, such as noise."""
    return F.interpolate(image, size=size, mode="bicubic", antialias=True)


def upsample(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(b, c, h, w) to (b, c, *size), size >= (h, w): bicubic (a = -0.5 as Pillow has it, half-pixel centres).

    Not clipped.
    """
    if size[0] < image.shape[-2] or size[1] < image.shape[-1]:
        raise ValueError(f"upsample: {tuple(image.shape[-2:])} px cannot grow to {size} px; use a smaller picture")
    if size == tuple(image.shape[-2:]):
        return image
    return F.interpolate(image, size=size, mode="bicubic", antialias=True)  # torch's plain bicubic has a = -0.75
