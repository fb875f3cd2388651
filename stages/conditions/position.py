"""The position: where in its picture each cell of a crop lies, as two channels concatenated to x (Wang et al. 2023, "Patch
Diffusion"). A stage that is trained on crops otherwise never learns that skies are above.

Rows, then columns, each from -sqrt(3) at one border to sqrt(3) at the other, so of unit variance over the picture. A crop of the
training, a tile and a whole picture have the same numbers at the same cell: a tile is told no corner, it is cut from the whole's.
"""

import math

import torch
from torch import Tensor

from data.batch import Cond

PORT, CHANNELS = "position", 2


def positions(size: tuple[int, ...], inner: tuple[float, ...] = (), edge: float = 0.0) -> Tensor:
    """The positions (2, *size) float32 of all cells of x0. inner: sides of the picture in cells, which begins at (edge, edge), by
    default everything; cells outside have the position of the border, as their low_res has its pixels."""
    axes = [
        _along(num, length, edge)
        for num, length in zip(size[-CHANNELS:], inner[-CHANNELS:] or size[-CHANNELS:], strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def with_positions(cond: Cond, value: Tensor) -> Cond:
    """A copy of a cond with the positions (2, h, w) in every row, on the device of its other parts; rows share their memory."""
    device = next((part.keep.device for part in cond.parts.values()), value.device)
    return cond.given(**{PORT: value.to(device).expand(cond.num, *value.shape)})


def _along(num: int, length: float, edge: float) -> Tensor:
    centres = (torch.arange(num, dtype=torch.float64) + 0.5 - edge).clamp(0.5, length - 0.5)
    return (math.sqrt(3) * (2 * centres / length - 1)).float()
