"""The look of pictures: 32 numbers in closed form, so that sets of a few hundred can be compared without any network.

Low frequencies of luminance and chroma (layout and colour), directions of edges, contrast, saturation, sharpness. It cannot tell a
good drawing from one whose details are wrong: it sees blur, speckle, tint, and kinds of pictures that are missing.
"""

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.judge.grain import high_pass
from cascade.judge.moments import Ruler
from cascade.judge.pictures import BATCH, check_pictures
from data.batch import to_float
from data.resize import downsample, upsample

VERSION = "look-1"
SIDE = 16  # px, at which the low frequencies and the edges are measured
DIRECTIONS = 4
DIMENSIONS = 32
LOOK = Ruler(name=VERSION, sha256=hashlib.sha256(VERSION.encode()).hexdigest())


def look(pictures: Tensor) -> Tensor:
    """(b, 32) float64 of RGB pictures uint8 (b, 3, h, w); a picture's row does not depend on the others."""
    check_pictures(pictures, "look")
    if pictures.shape[1] != 3:
        raise ValueError(f"look: pictures have {pictures.shape[1]} channels; RGB is needed, convert them")
    return torch.cat([_look(to_float(part).double()) for part in pictures.split(BATCH)])


def _look(images: Tensor) -> Tensor:
    small = _at(images, SIDE)
    luma = small.mean(dim=1, keepdim=True)
    chroma = torch.stack([small[:, 0] - small[:, 1], (small[:, 0] + small[:, 1]) / 2 - small[:, 2]], dim=1)
    spread = small.amax(dim=1) - small.amin(dim=1)
    fine = high_pass(images).square().mean(dim=(1, 2, 3)).sqrt()
    numbers = [luma.std(dim=(1, 2, 3)), spread.mean(dim=(1, 2)), spread.std(dim=(1, 2)), 4 * fine]
    parts = [_cosines(luma, 4), _cosines(chroma, 2), _directions(luma), torch.stack(numbers, dim=1)]
    return torch.cat(parts, dim=1)


def _at(images: Tensor, side: int) -> Tensor:
    """Images at side x side by THE downsample, axis by axis where one is shorter."""
    height, width = (min(side, each) for each in images.shape[2:])
    return upsample(downsample(images, (height, width)), (side, side))


def _cosines(images: Tensor, num: int) -> Tensor:
    """The lowest num x num coefficients of the orthonormal cosine transform, over the side: (b, c * num^2)."""
    side = images.shape[-1]
    k, x = torch.arange(num).double(), torch.arange(side).double()
    basis = torch.cos(math.pi * k[:, None] * (2 * x + 1) / (2 * side)) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    basis = basis.to(images)
    return (basis @ images @ basis.T).flatten(1) / side


def _directions(luma: Tensor) -> Tensor:
    """Strength of edges by direction, each picture's mean: (b, 4), horizontal gradients first."""
    dx, dy = F.pad(luma.diff(dim=3), (0, 1)), F.pad(luma.diff(dim=2), (0, 0, 0, 1))
    strength, angle = (dx.square() + dy.square()).sqrt(), torch.atan2(dy, dx) % math.pi
    bins = ((angle / math.pi * DIRECTIONS + 0.5).long() % DIRECTIONS).flatten(1)
    return torch.zeros(len(luma), DIRECTIONS).to(luma).scatter_add_(1, bins, strength.flatten(1)) / luma[0].numel()
