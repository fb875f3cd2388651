"""Whether a picture shows what it was asked for: is it nearer to its own true picture than to those of other conditions?"""

import torch
from torch import Tensor

from cascade.judge.estimate import Estimate


def match(real: Tensor, generated: Tensor) -> Estimate:
    """Share of the other true pictures that are farther from a generated picture than its own: 1 at best, 0.5 by chance.

    Features (n, d), n >= 3; row k of both sides has one condition. Distances are in standard deviations of the real features.
    """
    if real.shape != generated.shape or len(real) < 3:
        shapes = f"{tuple(real.shape)} and {tuple(generated.shape)}"
        raise ValueError(f"match: features are {shapes}; (n, d) each, one row a condition, n >= 3, is needed")
    std, mean = torch.std_mean(real.double(), dim=0)
    a, b = ((each.double() - mean) / std.clamp(min=1e-12) for each in (real, generated))
    distances = torch.cdist(b, a, compute_mode="donot_use_mm_for_euclid_dist")
    own = distances.diagonal()[:, None]
    farther = (distances > own).double() + (distances == own).double() / 2
    return Estimate.of_mean((farther.sum(dim=1) - 0.5) / (len(real) - 1))  # the picture itself counts as a half
