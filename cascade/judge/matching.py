"""Whether a picture shows what it was asked for: is it nearer to its own true picture than to those of other conditions?"""

import torch
from torch import Tensor

from cascade.judge.distances import blocks
from cascade.judge.estimate import Estimate


def match(real: Tensor, generated: Tensor) -> Estimate:
    """The mean of `matches`: 1 at best, 0.5 by chance."""
    return Estimate.of_mean(matches(real, generated))


def matches(real: Tensor, generated: Tensor) -> Tensor:
    """For each generated row, the share of other true rows that lie farther from it than the true row of its own condition: (n,)
    float64. 1: its own is the nearest; 0.5 is chance, which is what shuffled conditions give. Ties count half.

    Features (n, d), row k of both of one condition, n >= 3; each side is shifted and scaled to mean 0 and std 1 a feature:
    that all pictures are too soft is another fault, which other scores see.
    """
    if real.shape != generated.shape or len(real) < 3:
        told = f"{tuple(real.shape)} and {tuple(generated.shape)}"
        raise ValueError(f"match: features {told}; (n, d) each with n >= 3 is needed, one row a condition")
    moments = [torch.std_mean(each.double(), dim=0) for each in (real, generated)]
    pairs = zip((real, generated), moments, strict=True)
    a, b = ((each.double() - mean) / std.clamp(min=1e-12) for each, (std, mean) in pairs)
    parts, first = [], 0
    for block in blocks(b, a):
        rows = torch.arange(len(block))
        own = block[rows, rows + first, None]
        farther = (block > own).double() + (block == own).double() / 2
        parts.append((farther.sum(dim=1) - 0.5) / (len(real) - 1))  # the own one counts as a half
        first += len(block)
    return torch.cat(parts)
