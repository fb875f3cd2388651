"""The original size: height and width of a picture before it was packed, of which the network is told (Podell et al. 2023, "SDXL",
section 2.2). Pictures that were enlarged look otherwise than those that were shrunk, so without it a network paints blur at random.

It is told as log(side / resolution) / 2 for either side: 0 for the stage's own size, 0.35 more for twice as much. Where it is not
told, a learned null takes its place. Guidance leaves it in both of its halves.
"""

from dataclasses import replace

import torch
from torch import Tensor

from data.batch import Cond, Part

from ..sample_config import UNTOLD

PORT, NUMBERS = "original_size", 2
Sides = tuple[int, ...]
"""(height, width) in px, or UNTOLD."""


def with_sides(cond: Cond, sides: Sides) -> Cond:
    """A copy of a cond whose pictures all have this original size."""
    device = next((part.keep.device for part in cond.parts.values()), torch.device("cpu"))
    px = torch.tensor(sides, dtype=torch.int64, device=device).expand(cond.num, NUMBERS)
    keep = torch.full((cond.num,), sides != UNTOLD, device=device)
    return replace(cond, parts={**cond.parts, PORT: Part(value=px, keep=keep)})


def read(px: Tensor, resolution: int) -> Tensor:
    """The numbers (b, 2) float32 that a network of this resolution is told for sides (b, 2) int64 in px."""
    return (px.clamp(min=1).double() / resolution).log().div(2).float()
