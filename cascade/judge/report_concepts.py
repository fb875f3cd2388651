"""Whether a report's pictures show the right thing in the right style, and a table of things and styles to look at.

The pictures are those that the report paints anyway; the ruler and what stands beside are those of `cascade.judge concepts`. The
table is asked for apart: some things of these pictures in all styles that the ruler knows drawings of, a sample beside the truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.events import StageFinished
from cascade.judge.about import About, read_pictures
from cascade.judge.asking import fitted, request_of
from cascade.judge.background import check_background
from cascade.judge.concepts import (
    Asked,
    Line,
    Verdicts,
    ask,
    by_fact,
    judged,
    line,
    of_the_ceiling,
    references,
    style_ceiling,
)
from cascade.judge.intervals import Rate
from cascade.judge.labelled import Row
from cascade.judge.painted import at_size
from cascade.judge.ruler import ThingRuler
from cascade.pipeline import Cascade
from data.alpha import on_background
from data.read.mixture import facts

THINGS = 8  # in the table
TABLE = "the table of things and styles"


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What the report's pictures should show. kept: which of them the ruler can be asked about, (n,) bool; misses: why not the
    others."""

    ruler: ThingRuler
    asked: Asked
    kept: Tensor
    misses: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A thing in a style. sample, truth: uint8 (3, h, w) on white, None where there is none; hidden: from training.

    thing, style: whether the ruler finds the one that was asked for; None without a sample."""

    sample: Tensor | None = None
    truth: Tensor | None = None
    hidden: bool = False
    thing: bool | None = None
    style: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Concepts:
    """The rates of a report's pictures. lines: the pictures first, then what stands beside; parts: by fact, a line for each value.

    ceiling: of styles; told: a rate of styles in words, where the ceiling is low. table: cells by caption and number of style."""

    ruler: str
    ruler_sha256: str
    form: str
    size: int
    background: tuple[int, int, int]
    styles: tuple[str, ...]
    lines: tuple[Line, ...]
    parts: dict[str, tuple[Line, ...]]
    ceiling: Rate
    told: str
    table: tuple[tuple[str, tuple[Cell, ...]], ...]

    def as_json(self) -> dict[str, Any]:
        """All numbers as plain values."""
        return {
            "ruler": self.ruler, "ruler_sha256": self.ruler_sha256, "size": self.size, "background": list(self.background),
            "style_ceiling": self.ceiling.as_json(), "lines": [each.as_json() for each in self.lines],
            "parts": {name: [each.as_json() for each in lines] for name, lines in self.parts.items()},
        }  # fmt: skip


def questions(ruler: ThingRuler, keys: Sequence[str], about: Sequence[About], truth: Tensor, where: str) -> Questions:
    """Ask about pictures by what the data say of them. truth: uint8 (n, 3 or 4, h, w).

    Raises ValueError if the ruler knows none of them, or was trained on another background.
    """
    check_background(fitted(truth, ruler), ruler.background, where)
    rows = [
        Row(
            name=key, text=each.caption, style=str(each.facts.get("style") or each.label),
            thing=str(each.facts.get("thing") or ""),
        )
        for key, each in zip(keys, about, strict=True)
    ]  # fmt: skip
    asked, kept, misses = ask(ruler, rows, where)
    return Questions(ruler=ruler, asked=asked, kept=kept, misses=tuple(misses))


def concepts(
    wanted: Questions, model: Cascade, data: str, pictures: Tensor, *, seed: int, left_out: dict[str, str],
    say: Callable[[str], None],
) -> Concepts:  # fmt: skip
    """Judge the last stage's pictures uint8 (n, 3 or 4, h, w), and sample the table."""
    ruler, asked = wanted.ruler, wanted.asked
    embedded = ruler.embed(fitted(pictures[wanted.kept], ruler))
    found = judged(ruler, embedded, asked)
    lines = (line("pictures", found, seed), *references(ruler, asked, embedded, seed=seed))
    parts: dict[str, tuple[Line, ...]] = {}
    for what, value, part in by_fact(ruler, found):
        parts[what] = (*parts.get(what, ()), line(value, part, seed))
    if wanted.misses:
        left_out["right thing, right style"] = (
            f"{len(wanted.misses):,} of {len(wanted.kept):,} pictures; the first: {wanted.misses[0]}"
        )
    ceiling = style_ceiling(ruler, asked)
    return Concepts(
        ruler=ruler.identity.name, ruler_sha256=ruler.sha256, form=ruler.form, size=ruler.size, background=ruler.background,
        styles=ruler.styles, lines=lines, parts=parts, ceiling=ceiling,
        told=of_the_ceiling(lines[0].style.share, ceiling),
        table=_table(ruler, asked, model, data, seed, left_out, say),
    )  # fmt: skip


def _table(
    ruler: ThingRuler, asked: Asked, model: Cascade, data: str, seed: int, left_out: dict[str, str],
    say: Callable[[str], None],
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:  # fmt: skip
    cells = _asked_cells(ruler, _things(ruler, asked))
    say(f"the table: {len(cells):,} pictures of things and styles")
    try:
        request = request_of(model, ruler, cells, num=1, seed=seed)
        model.check(request)
    except ValueError as error:
        left_out[TABLE] = str(error)
        return ()
    made = torch.cat(
        [event.images.cpu() for event in model.sample(request) if isinstance(event, StageFinished) and event.last]
    )
    found = judged(ruler, ruler.embed(fitted(made, ruler)), cells)
    truths = _truths(ruler, cells, data, (made.shape[2], made.shape[3]))
    return _rows(ruler, cells, found, on_background(made), truths)


def _things(ruler: ThingRuler, asked: Asked) -> list[int]:
    """At most THINGS of the things that were asked for, evenly spaced; those of hidden drawings where there are any."""
    hidden = (asked.true >= 0) & ruler.hidden[asked.true.clamp(min=0)]
    found = list(dict.fromkeys((asked.where(hidden) if hidden.any() else asked).thing.tolist()))
    num = min(THINGS, len(found))
    return [found[k * len(found) // num] for k in range(num)]


def _asked_cells(ruler: ThingRuler, things: Sequence[int]) -> Asked:
    """The questions of all drawings that the ruler knows of these things, thing by thing, in the order of styles."""
    first = {(thing, style): k for k, (thing, style) in reversed(list(enumerate(_keys(ruler))))}
    rows = [first[thing, style] for thing in things for style in range(len(ruler.styles)) if (thing, style) in first]
    true = torch.tensor(rows, dtype=torch.int64)
    return Asked(thing=ruler.thing[true], style=ruler.style[true], true=true)


def _keys(ruler: ThingRuler) -> list[tuple[int, int]]:
    return list(zip(ruler.thing.tolist(), ruler.style.tolist(), strict=True))


def _truths(ruler: ThingRuler, cells: Asked, data: str, size: tuple[int, int]) -> dict[tuple[int, int], Tensor]:
    """The true pictures of cells, as far as the data have them in any split: uint8 (3, *size) on white, by thing and style."""
    styles = {name: k for k, name in enumerate(ruler.styles)}
    things = {ruler.things[thing]: thing for thing in cells.thing.tolist()}
    texts = {ruler.known[row].text: thing for thing, row in zip(cells.thing.tolist(), cells.true.tolist(), strict=True)}

    def cell_of(about: About) -> tuple[int, int] | None:
        style = styles.get(str(about.facts.get("style") or about.label))
        name = about.facts.get("thing")
        thing = texts.get(about.caption) if name is None else things.get(str(name))
        return None if style is None or thing is None else (thing, style)

    found: dict[tuple[int, int], Tensor] = {}
    wanted = set(zip(cells.thing.tolist(), cells.style.tolist(), strict=True))
    for split in sorted(facts(data).num_images, reverse=True):
        for about, picture in read_pictures(data, split, lambda about: cell_of(about) in wanted - found.keys()):
            cell = cell_of(about)
            if cell is not None and min(picture.shape[1:]) >= min(size):
                found[cell] = on_background(at_size(picture[None], size))[0]
            if len(found) == len(wanted):
                return found
    return found


def _rows(
    ruler: ThingRuler, cells: Asked, found: Verdicts, samples: Tensor, truths: dict[tuple[int, int], Tensor]
) -> tuple[tuple[str, tuple[Cell, ...]], ...]:
    by_place = {
        (thing, style): Cell(
            sample=samples[k], truth=truths.get((thing, style)), hidden=bool(ruler.hidden[cells.true[k]]),
            thing=bool(found.concept[k]), style=bool(found.style_right[k]),
        )
        for k, (thing, style) in enumerate(zip(cells.thing.tolist(), cells.style.tolist(), strict=True))
    }  # fmt: skip
    names = {
        thing: ruler.known[row].text or ruler.things[thing]
        for thing, row in zip(cells.thing.tolist(), cells.true.tolist(), strict=True)
    }
    return tuple(
        (name, tuple(by_place.get((thing, style), Cell()) for style in range(len(ruler.styles))))
        for thing, name in names.items()
    )
