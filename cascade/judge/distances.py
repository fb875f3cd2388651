"""Euclidean distances between rows of features, a block of rows at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

ROWS = 1024  # of the distance matrix at once: memory is ROWS * n * 8 bytes


def blocks(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Distances (rows, len(y)) for consecutive blocks of rows of x.

    Computed from differences, not from products: a copy is at exactly 0.
    """
    for part in x.split(ROWS):
        yield torch.cdist(part, y, compute_mode="donot_use_mm_for_euclid_dist")


def to_others(x: Tensor, k: int) -> Tensor:
    """Distances (n, k) of each row to its k nearest other rows, nearest first; a twin counts as another row, at 0."""
    return torch.cat([block.topk(k + 1, dim=1, largest=False).values[:, 1:] for block in blocks(x, x)])
