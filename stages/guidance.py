"""Guidance: which asks a query becomes, on which hosts, and how their answers are combined.

A rule may ask hosts other than the stage's own; the driver of the sampler resolves them by name. The names of a stage's hosts
determine which rule guides it: see GUIDANCES.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from data.batch import Cond

from .ask import OWN, Ask, NamedAsks
from .config import SampleConfig
from .diffusion.corrupt import expand_to
from .diffusion.guidance import guide, is_guided, is_inside
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
class Scales:
    """The scales of one image: x0_hat = null + label (label_only - null) + text (cond - label_only). Where they are equal, and for
    an image with one condition, that is null + scale (cond - null)."""

    label: float
    text: float

    @classmethod
    def of(cls, settings: SampleConfig, names: Collection[str]) -> Self:
        """Those of images with all conditions `names`, "label" or "text" or both."""
        own = [settings.scale_of(name) for name in ("label", "text") if name in names] or [settings.guidance_scale]
        return cls(label=own[0], text=own[-1])

    @property
    def rows(self) -> int:
        """Batch rows of a guided image: cond, label_only if the scales differ, null unless its weight is 0."""
        return 1 + (self.label != self.text) + (self.label != 1)


@dataclass(frozen=True, kw_only=True)
class ClassifierFree:
    """Classifier-free guidance on rows whose level is inside the interval, else a single ask.

    names: the parts of the cond that the null one lacks. scales: by row of the cond.
    """

    cond: Cond
    names: tuple[str, ...]
    scales: Sequence[Scales]
    interval: tuple[float, float]

    def asks(self, query: Query) -> NamedAsks:
        """The conditional ask of all rows; then the null ask, and the one without the text, of the rows that need them."""
        cond = self.cond if query.rows is None else self.cond[query.rows]
        asks = [(OWN, Ask(query=query, cond=cond))]
        for names, rows in zip((self.names, ("text",)), self._rows(query), strict=True):
            if len(rows) == len(query.x):
                asks.append((OWN, Ask(query=query, cond=cond.dropped(names), second=True)))
            elif len(rows):
                part = Query(query.x[rows], query.sigma[rows])
                asks.append((OWN, Ask(query=part, cond=cond.dropped(names)[rows], second=True)))
        return asks

    def combine(self, query: Query, answers: Sequence[Answer]) -> Answer:
        """Guide the guided rows; the variance is that of the conditional answer."""
        first, *others = answers
        if not others:
            return first
        null_rows, label_rows = self._rows(query)
        scales = self._scales(query)
        x0_hat = first.x0_hat.clone()
        if len(label_rows):
            label_only = others[-1].x0_hat
            x0_hat[label_rows] = label_only
        if len(null_rows):
            scale = query.x.new_tensor([scales[row].label for row in null_rows.tolist()])
            x0_hat[null_rows] = guide(x0_hat[null_rows], others[0].x0_hat, scale)
        if len(label_rows):
            scale = query.x.new_tensor([scales[row].text for row in label_rows.tolist()])
            x0_hat[label_rows] += expand_to(scale, label_only) * (first.x0_hat[label_rows] - label_only)
        return replace(first, x0_hat=x0_hat)

    def _scales(self, query: Query) -> Sequence[Scales]:
        """The scales of the rows of a query."""
        return self.scales if query.rows is None else [self.scales[row] for row in query.rows.tolist()]

    def _rows(self, query: Query) -> tuple[Tensor, Tensor]:
        """Rows of a query that need the null answer, and rows that need the one without the text."""
        rows = list(enumerate(zip(self._scales(query), query.sigma.tolist(), strict=True)))
        null_rows = [row for row, (each, level) in rows if is_guided(each.label, level, self.interval)]
        label_rows = [row for row, (each, level) in rows if each.label != each.text and is_inside(level, self.interval)]
        device = query.x.device
        return torch.tensor(null_rows, device=device).long(), torch.tensor(label_rows, device=device).long()


def classifier_free(settings: SampleConfig, cond: Cond, names: tuple[str, ...]) -> Guidance:
    """Make the classifier-free rule from the settings. An image that lacks one of two conditions is guided by the other alone, with
    the scale of that."""
    scales = [Scales.of(settings, names)] * cond.num
    if scales and scales[0].label != scales[0].text:
        kept = {name: cond.parts[name].keep.tolist() for name in names if name in cond.parts}
        given = [[name for name, keep in kept.items() if keep[row]] for row in range(cond.num)]
        scales = [Scales.of(settings, row_names) if row_names else Scales(label=1, text=1) for row_names in given]
    return ClassifierFree(cond=cond, names=names, scales=scales, interval=settings.guidance_interval)


def own_rows(settings: SampleConfig, names: tuple[str, ...]) -> Mapping[str, int]:
    """Batch rows per image of a stage's own network with classifier-free guidance."""
    return {OWN: Scales.of(settings, names).rows}


@dataclass(frozen=True, kw_only=True)
class GuidanceKind:
    """One way to guide. make: builds the rule for a chunk from settings, cond and the parts that training drops.

    rows: batch rows per image, by host, from settings and those parts. drops: whether it needs conditions that training drops.
    """

    make: Callable[[SampleConfig, Cond, tuple[str, ...]], Guidance]
    rows: Callable[[SampleConfig, tuple[str, ...]], Mapping[str, int]]
    drops: bool = False


GUIDANCES: dict[str, GuidanceKind] = {OWN: GuidanceKind(make=classifier_free, rows=own_rows, drops=True)}
"""Kinds of guidance by the host whose answer is extrapolated away from. A stage with several of these hosts uses the last entry."""


def guidance_kind(hosts: Collection[str]) -> GuidanceKind:
    """How a stage with these hosts, OWN among them, is guided."""
    return [kind for name, kind in GUIDANCES.items() if name in hosts][-1]


def guidance(
    settings: SampleConfig, cond: Cond, names: tuple[str, ...], hosts: Collection[str] = frozenset({OWN})
) -> Guidance:
    """Make the guidance rule for these settings and hosts."""
    return guidance_kind(hosts).make(settings, cond, names)
