"""Grain and sharpness: the high-pass of pictures where there should be none, and everywhere.

A pixel's high-pass is its difference to the mean of its 3 x 3 neighbourhood. A region is flat where the picture, blurred
over 5 x 5 pixels (which averages grain away and keeps edges), hardly changes within another 5 x 5. Units are those of
pictures in [-1, 1]. Compare with the same of the real pictures: paper and skin have grain of their own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.judge.pictures import BATCH, check_pictures
from data.batch import to_float

FLAT = 0.25  # most that the blurred picture may change within a flat region: an edge of a drawing changes it by 0.5


def grain(pictures: Tensor) -> Tensor:
    """Std of the high-pass in flat regions for each picture uint8 (b, c, h, w): (b,) float64, NaN without flat pixels.

    0 for a clean drawing, 0.94 times the std of white noise.
    """
    check_pictures(pictures, "grain")
    return torch.cat([_grain(to_float(part)) for part in pictures.split(BATCH)])


def sharpness(pictures: Tensor) -> Tensor:
    """Std of the high-pass over all pixels for each picture uint8 (b, c, h, w): (b,) float64."""
    check_pictures(pictures, "sharpness")
    parts = [high_pass(to_float(part)).double().square().mean(dim=(1, 2, 3)).sqrt() for part in pictures.split(BATCH)]
    return torch.cat(parts)


def high_pass(images: Tensor) -> Tensor:
    """Float images (b, c, h, w) minus their mean over 3 x 3 pixels."""
    return images - _mean_of(images, 3)


def _grain(images: Tensor) -> Tensor:
    flat = _flat(images)
    squares = (high_pass(images).double().square() * flat).sum(dim=(1, 2, 3))
    return (squares / (flat.sum(dim=(1, 2, 3)) * images.shape[1])).sqrt()


def _flat(images: Tensor) -> Tensor:
    """Which pixels (b, 1, h, w) bool lie in flat regions: flat in every channel."""
    padded = F.pad(_mean_of(images, 5), (2, 2, 2, 2), mode="replicate")
    change = F.max_pool2d(padded, 5, 1) + F.max_pool2d(-padded, 5, 1)
    return (change < FLAT).all(dim=1, keepdim=True)


def _mean_of(images: Tensor, size: int) -> Tensor:
    """Mean over size x size pixels around each; the border is repeated."""
    pad = size // 2
    return F.avg_pool2d(F.pad(images, (pad, pad, pad, pad), mode="replicate"), size, 1)
