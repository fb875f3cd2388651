"""Guidance: which asks a query becomes, on which hosts, and how their answers are combined.

`own` is the host of the stage that samples; a rule may ask others, which whoever drives the sampler must know by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from data.batch import Cond

from .ask import Ask
from .config import SampleConfig
from .diffusion.guidance import guide, is_guided
from .diffusion.samplers import Answer, Query

OWN = "own"


class Guidance(Protocol):
    """Made for one chunk of images: what it is given it knows."""

    def asks(self, query: Query) -> list[tuple[str, Ask]]: ...
    def combine(self, query: Query, answers: Sequence[Answer]) -> Answer: ...


@dataclass(frozen=True, kw_only=True)
class ClassifierFree:
    """x0_hat = null + scale (cond - null) where the level is inside the interval, row by row; elsewhere one ask. names: the parts
    of a condition that the null lacks."""

    cond: Cond
    names: tuple[str, ...]
    scale: float
    interval: tuple[float, float]

    def asks(self, query: Query) -> list[tuple[str, Ask]]:
        given = self.cond if query.rows is None else self.cond[query.rows]
        asks = [(OWN, Ask(query=query, cond=given))]
        rows = self._guided(query)
        if rows is not None:
            null = given.dropped(self.names)
            if len(rows) < len(query.x):
                query, null = Query(query.x[rows], query.sigma[rows]), null[rows]
            asks.append((OWN, Ask(query=query, cond=null, second=True)))
        return asks

    def combine(self, query: Query, answers: Sequence[Answer]) -> Answer:
        """The conditional answer keeps its variance."""
        if len(answers) == 1:
            return answers[0]
        first, null = answers
        rows = self._guided(query)
        assert rows is not None
        scale = query.x.new_full((len(rows),), self.scale)
        if len(rows) == len(query.x):
            return replace(first, x0_hat=guide(first.x0_hat, null.x0_hat, scale))
        x0_hat = first.x0_hat.clone()
        x0_hat[rows] = guide(x0_hat[rows], null.x0_hat, scale)
        return replace(first, x0_hat=x0_hat)

    def _guided(self, query: Query) -> Tensor | None:
        """The rows of a query whose level is guided, None where there is none."""
        is_on = [is_guided(self.scale, level, self.interval) for level in query.sigma.tolist()]
        return torch.tensor([row for row, on in enumerate(is_on) if on], device=query.x.device) if any(is_on) else None


def guidance(settings: SampleConfig, cond: Cond, names: tuple[str, ...]) -> Guidance:
    """The rule that the settings ask for."""
    return ClassifierFree(cond=cond, names=names, scale=settings.guidance_scale, interval=settings.guidance_interval)
