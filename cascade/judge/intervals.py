"""How far a share of right answers is known: Wilson's interval of a count, and a bootstrap where pictures come in groups."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.judge.vote.intervals import Share

RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Rate:
    """`right` of `num` answers; `low` and `high` are the ends of an interval of 95 %."""

    right: int
    num: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The fraction that is right; NaN of nothing."""
        return self.right / self.num if self.num else math.nan

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the share."""
        share = self.share if self.num else None
        return {"right": self.right, "num": self.num, "share": share, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.share:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.num else "none"


def wilson(right: int, num: int) -> Rate:
    """The score interval of a binomial share (Wilson 1927): it stays in [0, 1] and holds for few answers, too."""
    if not 0 <= right <= num:
        raise ValueError(f"{right} right of {num}; a count from 0 to the number of answers is needed")
    ends = Share(successes=right, n=num)
    # of none and of all, an end is exactly that of the scale: only rounding would put it elsewhere
    low, high = 0.0 if right == 0 else ends.low, 1.0 if right == num else ends.high
    return Rate(right=right, num=num, low=low, high=high)


def rate(right: Tensor, group: Tensor | None = None, *, seed: int = 0) -> Rate:
    """The rate of answers bool (n,): Wilson's interval; where several answers share a `group` (n,), a bootstrap over groups.

    Pictures of one thing succeed or fail together, so that counting each as one of its own would narrow the interval.
    """
    found = wilson(int(right.sum()), len(right))
    if group is None or not len(right) or len(group.unique()) == len(group):
        return found
    number = group.unique(return_inverse=True)[1]
    num = torch.bincount(number).double()
    hits = torch.zeros_like(num).index_add_(0, number, right.double())
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(num), (RESAMPLES, len(num)), generator=generator)
    shares = hits[drawn].sum(dim=1) / num[drawn].sum(dim=1)
    low, high = shares.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    if low == high:  # all groups agree: the bootstrap knows no other world, Wilson of the number of groups does
        groups = wilson(round(found.share * len(num)), len(num))
        low, high = groups.low, groups.high
    return Rate(right=found.right, num=found.num, low=low, high=high)
