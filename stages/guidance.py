"""Guidance: which asks a query becomes, on which hosts, and how their answers are combined.

A rule may ask hosts other than the stage's own; the driver of the sampler resolves them by name. Its directions (guiding/) add
their differences to the own answer one after the other, each where it acts; then come rescaling and the threshold. Where a
direction does not act it asks for nothing.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from data.batch import Cond

from .ask import OWN, Ask, NamedAsks
from .config import SampleConfig
from .diffusion.guidance import rescaled, thresholded
from .diffusion.samplers import SAMPLERS, Answer, Noise, Query
from .guiding.annealing import Annealing
from .guiding.autoguidance import GUIDE, AutoGuidance
from .guiding.beside import NOTHING, Beside
from .guiding.classifier_free import Scales, classifier_free
from .guiding.direction import Cached, Direction


class Guidance(Protocol):
    """A guidance rule, made for one chunk of images. It may count their calls, so each query's asks are combined once."""

    def asks(self, query: Query) -> NamedAsks:
        """Turn a query into asks, each with the name of its host."""
        ...

    def combine(self, query: Query, answers: Sequence[Answer]) -> Answer:
        """Combine the answers to the asks of a query into one."""
        ...


@dataclass(frozen=True, kw_only=True)
class Directed:
    """The own answer with the differences of all directions, rescaled by `rescale` of the way where they act, and thresholded at
    the percentile `threshold`, 1: not."""

    cond: Cond
    directions: Sequence[Direction]
    rescale: float = 0.0
    threshold: float = 1.0
    annealing: Annealing | None = None

    def asks(self, query: Query) -> NamedAsks:
        """The own ask of all rows, then those of the directions for the rows where they are due."""
        cond = self.cond if query.rows is None else self.cond[query.rows]
        asks: NamedAsks = [(OWN, Ask(query=query, cond=cond))]
        for direction in self.directions:
            if rows := direction.due(query):
                asks += direction.asks(query, cond, rows)
        return asks if self.annealing is None else [(name, self.annealing.noisy(ask)) for name, ask in asks]

    def combine(self, query: Query, answers: Sequence[Answer]) -> Answer:
        """Guide the rows; the variance is that of the own answer."""
        first, *others = answers
        remaining = iter(others)
        x0_hat, active = first.x0_hat, set[int]()
        for direction in self.directions:
            if rows := direction.active(query):
                x0_hat = direction.guided(query, x0_hat, first.x0_hat, remaining, direction.due(query))
                active.update(rows)
        if self.annealing is not None:
            self.annealing.answered(query)
        if self.rescale and active:
            guided_rows = sorted(active)
            x0_hat[guided_rows] = rescaled(x0_hat[guided_rows], first.x0_hat[guided_rows], self.rescale)
        if self.threshold < 1:
            x0_hat = thresholded(x0_hat, self.threshold)
        return first if x0_hat is first.x0_hat else replace(first, x0_hat=x0_hat)


def guidance(
    settings: SampleConfig,
    cond: Cond,
    names: tuple[str, ...],
    hosts: Collection[str] = frozenset({OWN}),
    beside: Beside = NOTHING,
    noise: Noise | None = None,
) -> Guidance:
    """Make the guidance rule for a chunk. names: the parts of the cond that training drops. hosts: those that the stage has.
    noise: the chunk's, for annealed conditions."""
    directions: list[Direction] = [classifier_free(settings, cond, names, beside)]
    if GUIDE in hosts:
        directions.append(AutoGuidance(scale=settings.autoguidance_scale, interval=settings.autoguidance_interval))
    if settings.guidance_every > 1:
        directions = [Cached(inner=direction, every=settings.guidance_every) for direction in directions]
    annealing = None
    if settings.anneal_scale and (text := cond.value("text")) is not None:
        assert noise is not None, "annealed conditions need noise"
        annealing = Annealing(
            scale=settings.anneal_scale, levels=settings.anneal_levels, noise=noise, shape=tuple(text.shape)
        )
    return Directed(
        cond=cond,
        directions=directions,
        rescale=settings.guidance_rescale,
        threshold=settings.dynamic_threshold,
        annealing=annealing,
    )


def most_rows(settings: SampleConfig, names: tuple[str, ...], hosts: Collection[str]) -> Mapping[str, int]:
    """The most batch rows per image of a call, by host."""
    rows = {OWN: Scales.of(settings, names).rows if names else 1}
    return rows | ({GUIDE: 1} if GUIDE in hosts and settings.autoguidance_scale != 1 else {})


def rows_by_call(
    settings: SampleConfig, names: tuple[str, ...], hosts: Collection[str] = frozenset({OWN})
) -> Iterator[Mapping[str, int]]:
    """Batch rows per image of each of a sampler's calls, by host: the rule itself is asked, over a run of the sampler."""
    parts = {"label": torch.zeros(1, dtype=torch.int64), "text": torch.zeros(1, 1, 1), "maps": torch.zeros(1, 1, 1, 1)}
    cond = Cond.empty(1).given(**{name: parts[name] for name in names})
    rule = guidance(settings, cond, names, hosts, noise=zeros)
    sampler = SAMPLERS[settings.sampler](torch.zeros(1, 1, 1, 1), settings.levels, zeros, settings.options)
    query = next(sampler)
    while True:
        asks = rule.asks(query)
        yield Counter({host: sum(ask.rows for name, ask in asks if name == host) for host, _ in asks})
        try:
            answers = [torch.zeros_like(ask.query.x) for _, ask in asks]
            query = sampler.send(rule.combine(query, [Answer(zero, var=zero) for zero in answers]))
        except StopIteration:
            return


def zeros(purpose: str, shape: tuple[int, ...]) -> Tensor:
    """A source of noise that has none."""
    return torch.zeros(shape)
