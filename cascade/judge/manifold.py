"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of k-nearest-neighbour balls.

Each real picture has a ball that reaches to its k-th nearest real neighbour; the union is the manifold of the data.
Precision: share of generated pictures within it. Recall: the same with the roles changed. Density: number of real balls
around a generated picture, divided by k (1 for a perfect system, not bounded by 1). Coverage: share of the real balls with a
generated picture inside. The last two use the real balls only, so that a generated outlier inflates nothing.
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from cascade.judge.distances import blocks, to_others
from cascade.judge.features import check_pair


@dataclass(frozen=True, kw_only=True)
class Manifold:
    """The four scores of one pair of sets."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(real: Tensor, generated: Tensor, k: int = 3, k_density: int = 5) -> Manifold:
    """Scores of features (n, d), the same n on both sides; k for precision and recall, k_density for the other two."""
    real, generated = check_pair(real, generated)
    n = len(real)
    for name, each in (("k", k), ("k_density", k_density)):
        if not 1 <= each < n:
            raise ValueError(f"manifold: {name} is {each} with {n} samples a side; it must be from 1 to {n - 1}")
    around_real = to_others(real, max(k, k_density))
    radius, wide = around_real[:, k - 1], around_real[:, k_density - 1]
    generated_radius = to_others(generated, k)[:, -1]
    precise, recalled, density = 0, torch.zeros(n, dtype=torch.bool, device=real.device), 0
    nearest = torch.full((n,), torch.inf, dtype=real.dtype, device=real.device)
    start = 0
    for block in blocks(generated, real):
        own = generated_radius[start : start + len(block), None]
        precise += int((block <= radius).any(dim=1).sum())
        density += int((block <= wide).sum())
        recalled |= (block <= own).any(dim=0)
        nearest = torch.minimum(nearest, block.min(dim=0).values)
        start += len(block)
    return Manifold(
        precision=precise / n,
        recall=recalled.double().mean().item(),
        density=density / (k_density * n),
        coverage=(nearest <= wide).double().mean().item(),
    )


def expected_coverage(num_real: int, num_generated: int, k: int = 5) -> float:
    """Coverage of two draws of one continuous law: 1 - prod_{i=1..k} (R - i) / (R + G - i); Naeem et al. 2020, eq. 7."""
    return 1 - prod((num_real - i) / (num_real + num_generated - i) for i in range(1, k + 1))
