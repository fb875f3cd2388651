"""The warp: training pictures moved and scaled, and the network told by how much (Karras et al. 2022, appendix F.2), so that it
paints pictures as they are where it is told 0.

A *warp* (b, 3) is (dx, dy, log of the scale) of each image, each in units of its std where images are warped: it is what the
network is told, and 0 means exactly "not warped". dx, dy are positive to the right and downwards; the scale is about the centre.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .warp_config import WarpConfig

PORT, NUMBERS = "warp", 3
WIDTH = math.sqrt(12)  # of the uniform distribution with std 1


def drawn(config: WarpConfig, u: Mapping[str, Tensor]) -> Tensor:
    """The warp (b, 3) float32 of each image from its uniform numbers (b,)."""
    signed = WIDTH * (torch.stack([u["warp_x"], u["warp_y"], u["warp_scale"]], dim=1) - 0.5)
    applied = (u["warp"] < config.probability)[:, None] & (_ranges(config) > 0)
    return torch.where(applied, signed, 0.0).float()


def warped(stored: Tensor, warp: Tensor, config: WarpConfig, flipped: Tensor | None = None) -> Tensor:
    """Stored pictures (b, c, ..., h, w) uint8 after their warp (b, 3), as float32 of the same levels, 0 to 255; the pictures
    themselves if none is warped.

    Bilinear. What comes in from outside repeats the edge, which keeps a white margin white and transparent black transparent.
    flipped (b,): pictures to be mirrored afterwards; they move the other way now, so that they end where the warp says.
    """
    rows = warp.any(1).nonzero()[:, 0].to(stored.device)
    if not len(rows):
        return stored
    dx, dy, log_scale = (warp.to(stored.device)[rows] * (2 / WIDTH) * _ranges(config).to(warp).to(stored.device)).T
    if flipped is not None:
        dx = torch.where(flipped[rows], -dx, dx)
    levels = stored.float()
    frames = levels[rows].flatten(1, -3)
    x, y = (_sources(side, shift, log_scale) for side, shift in ((stored.shape[-1], dx), (stored.shape[-2], dy)))
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    moved = F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return levels.index_copy(0, rows, moved.reshape(levels[rows].shape))


def _sources(side: int, shift: Tensor, log_scale: Tensor) -> Tensor:
    """Where each of `side` cells of an axis comes from, (b, side) in [-1, 1] of the picture; without a matrix product, whose TF32
    would move it by a tenth of a pixel."""
    centres = (2 * torch.arange(side, device=shift.device) + 1) / side - 1
    return (centres - 2 * shift[:, None]) * (-log_scale[:, None]).exp()


def _ranges(config: WarpConfig) -> Tensor:
    """The largest |dx|, |dy| in shares of the side, and |log scale|."""
    return torch.tensor([config.shift, config.shift, config.scale], dtype=torch.float64)
