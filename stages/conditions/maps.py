"""Spatial maps: pictures beside the picture that say what is where (classes by colour, edges, depth), concatenated to x.

A map passes through the same resize kernel, mirroring, warp and crop as its picture. One more channel says where there is a map at
all: where it was dropped, or never given, both are 0. So nothing in a network knows of maps but the width of its first layer.

Shapes: b images, c channels of a map.
"""

from dataclasses import replace

import torch
from torch import Tensor

from data.batch import Cond, Part

PORT = "maps"


def with_maps(cond: Cond, value: Tensor) -> Cond:
    """A copy of a cond with other maps (b, c, *size), dropped where its own are."""
    return replace(cond, parts={**cond.parts, PORT: replace(cond.parts[PORT], value=value)})


def planes(part: Part | None, x: Tensor, channels: int) -> Tensor:
    """The channels (b, channels + 1, *size) that are concatenated to x (b, c', *size): maps, then whether there is one. Raises
    ValueError for maps of another size or number of channels than x has."""
    if part is None:
        return x.new_zeros(len(x), channels + 1, *x.shape[2:])
    if part.value.shape[1:] != (channels, *x.shape[2:]):
        raise ValueError(
            f"maps are {tuple(part.value.shape[1:])}, {(channels, *x.shape[2:])} are needed beside x; resize them"
        )
    keep = part.keep.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return torch.cat([part.value.to(x.dtype) * keep, keep.expand(len(x), 1, *x.shape[2:])], dim=1)
