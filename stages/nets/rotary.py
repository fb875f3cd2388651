"""Positions of a grid of tokens: rotary, relative and so of any size, for attention; and absolute ones as input features.

Rotary positions in two dimensions (Su et al. 2021; of pictures as in Heo et al. 2024, "axial"): one half of each head's pairs of
numbers is rotated by an angle proportional to the row, the other by the column, so that a product of a query and a key depends on
the offset between them in tokens. A larger picture has the same offsets, and more of them.

Shapes: n = rows x cols tokens in reading order, d numbers a head.
"""

import math

import torch
from torch import Tensor

THETA = (
    100.0  # ratio of the fastest to the slowest rotation (Heo et al. 2024: a picture has fewer positions than a text)
)
WAVES = (1, 2, 4)  # half waves over a side


def rotations(rows: int, cols: int, head_dim: int, device: torch.device, *, before: int = 0) -> Tensor:
    """Cosines and sines (2, before + n, d / 2) float32 of each token's angles; the first `before` tokens have no position, and are
    not rotated."""
    speed = THETA ** (-torch.arange(head_dim // 4, device=device) / (head_dim // 4))
    row, col = (torch.arange(num, device=device)[:, None] * speed for num in (rows, cols))
    angles = torch.cat([row[:, None].expand(rows, cols, -1), col[None].expand(rows, cols, -1)], dim=-1).flatten(
        0, 1
    )  # (n, d / 2)
    angles = torch.cat([angles.new_zeros(before, head_dim // 2), angles])
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate each pair (k, k + d / 2) of x (..., n, d) by its angle; lengths stay as they are."""
    cos, sin = turn.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def places(rows: int, cols: int, device: torch.device) -> Tensor:
    """Absolute positions (n, 1 + 4 len(WAVES)) as features of mean square 1: a constant, and waves over each side.

    They count from the middle in units of the side, so those of a picture of another size lie between those that are known.
    """
    features = [torch.ones(rows, cols, device=device)]
    for axis, num in enumerate((rows, cols)):
        at = (2 * torch.arange(num, device=device) + 1) / num - 1  # (-1, 1), the middle of each token
        for wave in (torch.sin, torch.cos):
            for number in WAVES:
                value = math.sqrt(2) * wave(math.pi / 2 * number * at)
                features.append((value[:, None] if axis == 0 else value[None]).expand(rows, cols))
    return torch.stack(features, dim=-1).flatten(0, 1)
