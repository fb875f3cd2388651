"""Guidance: which asks a query becomes, on which hosts, and how their answers are combined.

A rule may ask hosts other than the stage's own; the driver of the sampler resolves them by name. The names of a stage's hosts
determine which rule guides it: see GUIDANCES.
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
    """A guidance rule, made for one chunk of images."""

    def asks(self, query: Query) -> NamedAsks:
        """Turn a query into asks, each with the name of its host."""
        ...

    def combine(self, query: Query, answers: Sequence[Answer]) -> Answer:
        """Combine the answers to the asks of a query into one."""
        ...


@dataclass(frozen=True, kw_only=True)
class ClassifierFree:
    """Classifier-free guidance: x0_hat = null + scale (cond - null) on rows whose level is inside the interval, else a single ask.

    names: the parts of the cond that the null one lacks.
    """

    cond: Cond
    names: tuple[str, ...]
    scale: float
    interval: tuple[float, float]

    def asks(self, query: Query) -> NamedAsks:
        """The conditional ask of all rows; if any row is guided, also the null ask of those rows."""
        cond = self.cond if query.rows is None else self.cond[query.rows]
        asks = [(OWN, Ask(query=query, cond=cond))]
        rows = self._guided(query)
        if rows is not None:
            null = cond.dropped(self.names)
            if len(rows) < len(query.x):
                query, null = Query(query.x[rows], query.sigma[rows]), null[rows]
            asks.append((OWN, Ask(query=query, cond=null, second=True)))
        return asks

    def combine(self, query: Query, answers: Sequence[Answer]) -> Answer:
        """Guide the guided rows; the variance is that of the conditional answer."""
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
        """Rows of a query that are guided, or None if there are none."""
        is_on = [is_guided(self.scale, level, self.interval) for level in query.sigma.tolist()]
        return torch.tensor([row for row, on in enumerate(is_on) if on], device=query.x.device) if any(is_on) else None


def classifier_free(settings: SampleConfig, cond: Cond, names: tuple[str, ...]) -> Guidance:
    """Make the classifier-free rule from the settings."""
    return ClassifierFree(cond=cond, names=names, scale=settings.guidance_scale, interval=settings.guidance_interval)


@dataclass(frozen=True, kw_only=True)
class GuidanceKind:
    """One way to guide. make: builds the rule for a chunk from settings, cond and the parts that training drops.

    rows: batch rows per guided image, by host. drops: whether it needs conditions that training drops.
    """

    make: Callable[[SampleConfig, Cond, tuple[str, ...]], Guidance]
    rows: Mapping[str, int]
    drops: bool = False


GUIDANCES: dict[str, GuidanceKind] = {OWN: GuidanceKind(make=classifier_free, rows={OWN: 2}, drops=True)}
"""Kinds of guidance by the host whose answer is extrapolated away from. A stage with several of these hosts uses the last entry."""


def guidance_kind(hosts: Collection[str]) -> GuidanceKind:
    """How a stage with these hosts, OWN among them, is guided."""
    return [kind for name, kind in GUIDANCES.items() if name in hosts][-1]


def guidance(
    settings: SampleConfig, cond: Cond, names: tuple[str, ...], hosts: Collection[str] = frozenset({OWN})
) -> Guidance:
    """Make the guidance rule for these settings and hosts."""
    return guidance_kind(hosts).make(settings, cond, names)
