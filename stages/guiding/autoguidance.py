"""Autoguidance (Karras et al. 2024): away from the answer of a weaker network, a guide, to the same question.

The guide makes the mistakes of the stage's own network, and more of them, so the difference points away from mistakes; it needs no
condition, and does not make the pictures of a condition more alike. A good guide is an early snapshot of the same run, or a smaller
network that was trained for less time on the same data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from data.batch import Cond

from ..ask import Ask, NamedAsks
from ..diffusion.guidance import is_guided
from ..diffusion.samplers import Answer, Query
from .direction import part_of, rows_of

GUIDE = "guide"
"""Name of the host of the guide, and its key in the manifest."""


@dataclass(frozen=True, kw_only=True)
class AutoGuidance:
    """x0_hat + (scale - 1) (own - guide) at the levels inside the interval; alone that is guide + scale (own - guide)."""

    scale: float
    interval: tuple[float, float]

    def active(self, query: Query) -> list[int]:
        """The rows whose level is inside the interval."""
        return [row for row, sigma in enumerate(query.sigma.tolist()) if is_guided(self.scale, sigma, self.interval)]

    def due(self, query: Query) -> list[int]:
        """All active rows."""
        return self.active(query)

    def asks(self, query: Query, cond: Cond, rows: Sequence[int]) -> NamedAsks:
        """The same question to the guide."""
        return [(GUIDE, Ask(query=part_of(query, rows), cond=rows_of(cond, rows, query)))] if rows else []

    def guided(
        self, query: Query, x0_hat: Tensor, own: Tensor, answers: Iterator[Answer], rows: Sequence[int]
    ) -> Tensor:
        """Add the difference of the two networks in these rows."""
        result = x0_hat.clone()
        if rows:
            result[list(rows)] += (self.scale - 1) * (own[list(rows)] - next(answers).x0_hat)
        return result
