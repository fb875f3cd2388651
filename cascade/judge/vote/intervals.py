"""Wilson's interval of a share, and what it asks of a claim before the first vote.

Wilson (1927) keeps the rates p that the score test does not reject, |successes / n - p| <= z sqrt(p (1 - p) / n). So a claim
"more than p" is shown by n votes where successes >= n p + z sqrt(n p (1 - p)): the closed form below.
"""

from dataclasses import dataclass
from math import ceil, floor, sqrt

Z = 1.959963984540054  # two-sided 95 %


@dataclass(frozen=True, kw_only=True)
class Share:
    """successes of n, a tie as half of one; [low, high] is Wilson's interval at 95 %. Nothing of nothing is [0, 1]."""

    successes: float
    n: int

    @property
    def rate(self) -> float:
        """successes / n; 0.5 of nothing."""
        return self.successes / self.n if self.n else 0.5

    @property
    def low(self) -> float:
        """The smallest rate that the votes do not reject."""
        return self._bounds()[0]

    @property
    def high(self) -> float:
        """The largest rate that the votes do not reject."""
        return self._bounds()[1]

    def _bounds(self) -> tuple[float, float]:
        if not self.n:
            return 0.0, 1.0
        scale = 1 + Z * Z / self.n
        centre = (self.rate + Z * Z / (2 * self.n)) / scale
        half = Z * sqrt(self.rate * (1 - self.rate) / self.n + (Z / (2 * self.n)) ** 2) / scale
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        return f"{100 * self.rate:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.n:,}"

    def as_json(self) -> dict[str, float]:
        """Numbers for a file."""
        return {"successes": self.successes, "n": self.n, "rate": self.rate, "low": self.low, "high": self.high}


def wins_needed(claim: float, n: int) -> int | None:
    """The fewest wins of n whose interval lies above `claim`; None where not even n of n do."""
    wins = max(0, ceil(n * claim + Z * sqrt(n * claim * (1 - claim)) - 1e-9))
    return wins if wins <= n and n else None


def votes_needed(claim: float, rate: float = 1.0) -> int:
    """The fewest votes that show "more than `claim`" if the share seen is `rate`. Raises ValueError unless claim < rate <= 1."""
    if not 0 <= claim < rate <= 1:
        raise ValueError(
            f"a claim of {claim:g} is not shown by a share of {rate:g}; the share must be larger, at most 1"
        )
    return floor(Z * Z * claim * (1 - claim) / (rate - claim) ** 2 - 1e-9) + 1


def claims(n: int, wanted: tuple[float, ...] = (0.5, 2 / 3, 0.8)) -> list[str]:
    """A line for each claim: how many of n votes show it."""
    return [_claim(claim, n) for claim in wanted]


def _claim(claim: float, n: int) -> str:
    wins = wins_needed(claim, n)
    told = f"more than {100 * claim:.0f} %"
    if wins is None:
        return f"{told}: {n:,} votes cannot show it; {votes_needed(claim):,} can, if all agree"
    return f"{told} is shown by {wins:,} of {n:,} (a tie is half a win)"
