"""A table of means by level, learned on a run."""

from collections.abc import Callable

import torch
from torch import Tensor

PRIOR = 4.0  # images of the overall mean that every bin begins with, so that few draws decide little


class LevelTable:
    """Discounted mean of a positive number in bins of level: all in float64 on the CPU, the same on every rank.

    half_life: after so many images of an average bin their share in its mean is a half.
    """

    def __init__(self, name: str, *, bins: int, half_life: int):
        self.name, self.bins, self.half_life = f"{name}_{bins}", bins, half_life
        self.sums = torch.zeros(2, bins, dtype=torch.float64)  # of the number, of images

    def means(self) -> Tensor:
        """The mean of each bin (bins,), drawn to the mean of all by PRIOR images; ones before anything was added."""
        total, num = self.sums.sum(1)
        if not num:
            return torch.ones(self.bins, dtype=torch.float64)
        return (self.sums[0] + PRIOR * total / num) / (self.sums[1] + PRIOR)

    def add(self, bin_: Tensor, number: Tensor, total: Callable[[Tensor], Tensor]) -> None:
        """Add this rank's numbers (n,) in bins (n,) of one update, summed over all ranks by `total`."""
        new = torch.zeros_like(self.sums)
        new.index_add_(1, bin_, torch.stack([number, torch.ones_like(number)]))
        new = total(new).cpu()
        self.sums = self.sums * 0.5 ** (new[1].sum() / (self.half_life * self.bins)) + new

    def state(self) -> dict[str, Tensor]:
        """The sums, under a name with the number of bins: a table of another size begins anew."""
        return {self.name: self.sums}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore `state`, if it holds this table."""
        if self.name in state:
            self.sums = state[self.name].clone()
