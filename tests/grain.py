"""Grain: how much of a picture's finest octave is noise, measured where there should be nothing. It reads neither text nor truth.

A pixel's high-pass is what it differs from the mean of its 3 x 3 neighbourhood. A region is flat where the picture, blurred over
5 x 5 pixels (which averages grain away and keeps edges), hardly changes within another 5 x 5. Grain is the std of the high-pass in
flat regions, in units of pictures in [-1, 1]: 0 for a clean drawing, 0.94 times the std of white noise.
"""

import torch.nn.functional as F
from torch import Tensor

FLAT = 0.25  # most that the blurred picture may change within a flat region: an edge of a drawing changes it by 0.5 or more


def grain(images: Tensor) -> float:
    """Grain of (b, c, h, w) in [-1, 1], over all of their flat pixels; NaN where there are none."""
    return high_pass(images)[flat(images)].square().mean().sqrt().item()


def high_pass(images: Tensor) -> Tensor:
    return images - mean_of(images, 3)


def flat(images: Tensor) -> Tensor:
    """Which values (b, c, h, w) bool lie in flat regions."""
    blurred = mean_of(images, 5)
    padded = F.pad(blurred, (2, 2, 2, 2), mode="replicate")
    change = F.max_pool2d(padded, 5, 1) + F.max_pool2d(-padded, 5, 1)
    return (change < FLAT).all(dim=1, keepdim=True).expand_as(images)


def mean_of(images: Tensor, size: int) -> Tensor:
    """Mean over size x size pixels around each; the border is repeated."""
    pad = size // 2
    return F.avg_pool2d(F.pad(images, (pad, pad, pad, pad), mode="replicate"), size, 1)
