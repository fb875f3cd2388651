"""A score with its jackknife: the values that it takes when a picture, or a group of them, is left out.

The values of two systems that painted the same conditions with the same noise, scored against the same true pictures, move
together: their difference is known far better than either. So scores are compared by the jackknife of the difference.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score. left_out: for each independent side, the scores without one picture (or group) of it, float64 (n,)."""

    value: float
    left_out: tuple[Tensor, ...]

    @classmethod
    def of_mean(cls, values: Tensor) -> Self:
        """The mean of a number a picture, (n,) with n >= 2."""
        values = values.double()
        return cls(value=values.mean().item(), left_out=((values.sum() - values) / (len(values) - 1),))

    @property
    def error(self) -> float:
        """The standard error by the jackknife (Efron 1982), sides added."""
        variance = sum((len(side) - 1) * side.var(correction=0) for side in self.left_out)
        return torch.as_tensor(variance).sqrt().item()

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference to a score of the same pictures and conditions."""
        pairs = zip(self.left_out, other.left_out, strict=True)
        return Estimate(value=self.value - other.value, left_out=tuple(a - b for a, b in pairs))
