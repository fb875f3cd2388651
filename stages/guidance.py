"""Guidance: which asks a query becomes, on which hosts, and how their answers are combined.

A rule may ask other hosts than the stage's own, which whoever drives the sampler must know by name. What the hosts of a stage are
called decides which rule guides it: GUIDANCES.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from data.batch import Cond

from .ask import OWN, Ask, NamedAsks
from .config import SampleConfig
from .diffusion.guidance import guide, is_guided
from .diffusion.samplers import Answer, Query


class Guidance(Protocol):
    """Made for one chunk of images: what it is given it knows."""

    def asks(self, query: Query) -> NamedAsks: ...
    def combine(self, query: Query, answers: Sequence[Answer]) -> Answer: ...


@dataclass(frozen=True, kw_only=True)
class ClassifierFree:
    """x0_hat = null + scale (cond - null) where the level is inside the interval, row by row; elsewhere one ask. names: the parts
    of a condition that the null lacks."""

    cond: Cond
    names: tuple[str, ...]
    scale: float
    interval: tuple[float, float]

    def asks(self, query: Query) -> NamedAsks:
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


def classifier_free(settings: SampleConfig, cond: Cond, names: tuple[str, ...]) -> Guidance:
    return ClassifierFree(cond=cond, names=names, scale=settings.guidance_scale, interval=settings.guidance_interval)


@dataclass(frozen=True, kw_only=True)
class GuidanceKind:
    """make: the rule for a chunk, given the settings, its condition and the parts of it that training drops. rows: of the batch of
    each host for an image whose level is guided. drops: it compares with what lacks these parts, and so needs some."""

    make: Callable[[SampleConfig, Cond, tuple[str, ...]], Guidance]
    rows: Mapping[str, int]
    drops: bool = False


GUIDANCES: dict[str, GuidanceKind] = {OWN: GuidanceKind(make=classifier_free, rows={OWN: 2}, drops=True)}
"""By the host that an answer is led away from. Of those that a stage has, the one that stands last here guides it."""


def guidance_kind(hosts: Collection[str]) -> GuidanceKind:
    """How a stage with these hosts, OWN among them, is guided."""
    return [kind for name, kind in GUIDANCES.items() if name in hosts][-1]


def guidance(
    settings: SampleConfig, cond: Cond, names: tuple[str, ...], hosts: Collection[str] = frozenset({OWN})
) -> Guidance:
    """The rule that the settings ask for."""
    return guidance_kind(hosts).make(settings, cond, names)
