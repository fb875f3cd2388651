"""Classifier-free guidance: away from the answer without the condition, or with a negative text; towards several texts."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from data.batch import Cond

from ..ask import OWN, Ask, NamedAsks
from ..config import SampleConfig
from ..diffusion.corrupt import expand_to
from ..diffusion.guidance import guide, is_guided, is_inside
from ..diffusion.samplers import Answer, Query
from .beside import NOTHING, Beside
from .direction import images_of, part_of, rows_of


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
    """Classifier-free guidance of the rows whose level is inside the interval; the first of the directions.

    names: the parts of the cond that the null one lacks. scales: by image. labelled: whether an image has a label, by image.

    Two answers can stand beside the own one: null, without conditions, and bare, without the text alone; where there is a negative
    text, it stands in both for the missing one. An image with composed texts has own + sum_i weight_i (answer_i - bare) in place of
    its own answer, at every level: what is guided is the product of the texts' distributions, so without guidance, too.
    """

    names: tuple[str, ...]
    scales: Sequence[Scales]
    interval: tuple[float, float]
    labelled: Sequence[bool]
    beside: Beside = NOTHING

    def active(self, query: Query) -> list[int]:
        """The rows that are guided or have composed texts."""
        levels = query.sigma.tolist()
        return [row for row, image in enumerate(images_of(query)) if any(self._needs(image, levels[row]))]

    def due(self, query: Query) -> list[int]:
        """All active rows."""
        return self.active(query)

    def asks(self, query: Query, cond: Cond, rows: Sequence[int]) -> NamedAsks:
        """The null asks, then the bare ones, then those of composed texts, of the rows that need them."""
        asks: NamedAsks = []
        for names, some in zip((self.names, ("text",)), self._rows(query, rows), strict=True):
            if some:
                part = part_of(query, some)
                dropped = self._negative(rows_of(cond.dropped(names), some, query), part)
                asks.append((OWN, Ask(query=part, cond=dropped, second=True)))
        for text, _, some in self._composed(query, rows):
            part = part_of(query, some)
            asks.append((OWN, Ask(query=part, cond=with_text(rows_of(cond, some, query), text, part))))
        return asks

    def guided(
        self, query: Query, x0_hat: Tensor, own: Tensor, answers: Iterator[Answer], rows: Sequence[int]
    ) -> Tensor:
        """Guide the rows. x0_hat is `own`, since no direction comes before."""
        null_rows, bare_rows = self._rows(query, rows)
        images, levels = images_of(query), query.sigma.tolist()
        null = next(answers).x0_hat if null_rows else own[:0]
        bare = own
        if bare_rows:
            bare = own.clone()
            bare[bare_rows] = next(answers).x0_hat
        cond = own.clone()
        for _, weights, some in self._composed(query, rows):
            weight = own.new_tensor([weights[images[row]] for row in some])
            cond[some] += expand_to(weight, bare[some]) * (next(answers).x0_hat - bare[some])
        apart = [row for row in bare_rows if self._is_apart(images[row], levels[row])]
        shared = [row for row in bare_rows if self._is_shared(images[row], levels[row])]
        result = cond.clone()
        if apart:
            result[apart] = bare[apart]
        if guided_rows := null_rows + shared:
            scale = own.new_tensor([self.scales[images[row]].label for row in guided_rows])
            away_from = torch.cat([null, bare[shared]]) if shared else null
            result[guided_rows] = guide(result[guided_rows], away_from, scale)
        if apart:
            scale = own.new_tensor([self.scales[images[row]].text for row in apart])
            result[apart] += expand_to(scale, bare[apart]) * (cond[apart] - bare[apart])
        return result

    def _needs(self, image: int, sigma: float) -> tuple[bool, bool]:
        """Whether an image needs the null answer, and the bare one, which serves as both for composed texts without a label."""
        is_composed = any(weights[image] for _, weights in self.beside.composed)
        shares = self._is_shared(image, sigma)
        needs_null = is_guided(self.scales[image].label, sigma, self.interval) and not shares
        return needs_null, is_composed or self._is_apart(image, sigma)

    def _is_apart(self, image: int, sigma: float) -> bool:
        """Whether its text and its label are guided with different scales."""
        return self.scales[image].label != self.scales[image].text and is_inside(sigma, self.interval)

    def _is_shared(self, image: int, sigma: float) -> bool:
        """Whether its bare answer serves as the null one: of composed texts without a label."""
        is_composed = any(weights[image] for _, weights in self.beside.composed)
        return is_composed and not self.labelled[image] and is_guided(self.scales[image].label, sigma, self.interval)

    def _rows(self, query: Query, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Those of the rows that need the null answer, and those that need the bare one."""
        images, levels = images_of(query), query.sigma.tolist()
        needs = {row: self._needs(images[row], levels[row]) for row in rows}
        return [row for row in rows if needs[row][0]], [row for row in rows if needs[row][1]]

    def _composed(self, query: Query, rows: Sequence[int]) -> list[tuple[Cond, Sequence[float], list[int]]]:
        """Each composed text with its weights by image and those of the rows that have it, if there are any."""
        images = images_of(query)
        texts = [
            (text, weights, [row for row in rows if weights[images[row]]]) for text, weights in self.beside.composed
        ]
        return [each for each in texts if each[2]]

    def _negative(self, cond: Cond, part: Query) -> Cond:
        """The cond with the negative text, if there is one, in place of none."""
        return cond if self.beside.negative is None else with_text(cond, self.beside.negative, part)


def with_text(cond: Cond, text: Cond, part: Query) -> Cond:
    """The cond of a query's rows with the part "text" of `text`, which has a row for each image."""
    chosen = text if part.rows is None else text[part.rows]
    return replace(cond, parts={**cond.parts, "text": chosen.parts["text"]})


def classifier_free(settings: SampleConfig, cond: Cond, names: tuple[str, ...], beside: Beside) -> ClassifierFree:
    """Make the direction from the settings. An image that lacks one of two conditions is guided by the other alone, with the scale
    of that."""
    kept = {name: cond.parts[name].keep.tolist() for name in names if name in cond.parts}
    scales = [Scales.of(settings, names)] * cond.num
    if scales and scales[0].label != scales[0].text:
        texts = beside.negative.parts["text"].keep.tolist() if beside.negative else [False] * cond.num
        given = [
            [name for name, keep in kept.items() if keep[row] or (name == "text" and texts[row])]
            for row in range(cond.num)
        ]
        scales = [Scales.of(settings, row_names) if row_names else Scales(label=1, text=1) for row_names in given]
    if beside.scales is not None:
        scales = [Scales(label=scale, text=scale) for scale in beside.scales]
    return ClassifierFree(
        names=names,
        scales=scales,
        interval=settings.guidance_interval,
        labelled=kept.get("label", [False] * cond.num),
        beside=beside,
    )
