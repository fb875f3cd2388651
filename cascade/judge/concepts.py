"""Whether pictures show what was asked for, in the style that was asked for, by a ruler of things and styles.

Beside the pictures stand, judged by the same ruler for the same questions: the true pictures (the ceiling), copies of the
same thing in the other styles, the picture of the nearest caption in the right style, and the pictures themselves under
captions that were shuffled. A picture that copies another style's drawing has its thing right and its style wrong.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.judge.among import AMONG, TIE, nearest_among
from cascade.judge.halves import HALVES
from cascade.judge.intervals import Rate, rate
from cascade.judge.labelled import Row
from cascade.judge.ruler import Embedding, ThingRuler

CEILING = 0.98  # a ruler that is right less often about the styles of hidden true pictures says so
GRAM = 3  # letters of a piece of a caption


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What each of n pictures should show: numbers of things and styles (n,) int64, and the row of the true picture or -1."""

    thing: Tensor
    style: Tensor
    true: Tensor

    def __len__(self) -> int:
        return len(self.thing)

    def where(self, keep: Tensor) -> "Asked":
        """Those that are kept, bool (n,)."""
        return Asked(thing=self.thing[keep], style=self.style[keep], true=self.true[keep])


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """For each of n pictures: how many things of its style are nearer than the right one, of how many; the style found."""

    nearer: Tensor
    others: Tensor
    style: Tensor
    asked: Asked

    @property
    def concept(self) -> Tensor:
        """Whether the right thing is the nearest of all things of the style, (n,) bool."""
        return self.nearer == 0

    @property
    def style_right(self) -> Tensor:
        """Whether the style is the one that was asked for, (n,) bool."""
        return self.style == self.asked.style

    @property
    def among(self) -> Tensor:
        """Chance that the right thing is the nearest of AMONG of the style, the others drawn at random: (n,) float64."""
        return nearest_among(self.nearer, self.others)


@dataclass(frozen=True, kw_only=True)
class Line:
    """The rates of one set of pictures."""

    name: str
    num: int
    concept: Rate
    among: float
    style: Rate
    both: Rate

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rates = {name: getattr(self, name).as_json() for name in ("concept", "style", "both")}
        return {"name": self.name, "num": self.num, f"concept among {AMONG}": self.among, **rates}

    def __str__(self) -> str:
        among = f"{self.among:.2f}" if self.num else "none"
        return f"{self.name[:34]:<34} {self.num:>5}  {self.concept!s:<18} {among:>6}  {self.style!s:<18} {self.both}"


HEADER = f"{'':<34} {'N':>5}  {'concept':<18} {'of ' + str(AMONG):>6}  {'style':<18} both"


def judged(ruler: ThingRuler, embedded: Embedding, asked: Asked) -> Verdicts:
    """Compare pictures with what they should show."""
    cosines = ruler.cosines(embedded, asked.style)
    drawn = ruler.drawn[asked.style]
    own = cosines.gather(1, asked.thing[:, None])
    nearer = ((cosines > own + TIE) & drawn).sum(dim=1)
    return Verdicts(nearer=nearer, others=drawn.sum(dim=1) - 1, style=ruler.styles_of(embedded), asked=asked)


def line(name: str, found: Verdicts, seed: int = 0) -> Line:
    """The rates; intervals regard pictures of one thing as one answer that was given several times."""
    group, both = found.asked.thing, found.concept & found.style_right
    concept, style, together = (rate(right, group, seed=seed) for right in (found.concept, found.style_right, both))
    among = found.among.mean().item() if len(group) else 0.0
    return Line(name=name, num=len(group), concept=concept, among=among, style=style, both=together)


def ask(ruler: ThingRuler, rows: Sequence[Row], where: str) -> tuple[Asked, Tensor, list[str]]:
    """What rows ask for: by thing and style, else by caption and style; a caption "NAME, STYLE" tells both.

    Also which rows are understood, (n,) bool, and for each of the others a message. Raises ValueError if none is.
    """
    table = _Table(ruler)
    found, misses = [table.find(row) for row in rows], []
    for row, answer in zip(rows, found, strict=True):
        if isinstance(answer, str):
            misses.append(f"{row.name}: {answer}")
    kept = torch.tensor([not isinstance(answer, str) for answer in found])
    numbers = torch.tensor([answer for answer in found if not isinstance(answer, str)], dtype=torch.int64).reshape(
        -1, 3
    )
    if not len(numbers):
        raise ValueError(f"{where}: none of {len(rows):,} pictures can be asked about; {misses[0]}")
    return Asked(thing=numbers[:, 0], style=numbers[:, 1], true=numbers[:, 2]), kept, misses


class _Table:
    """What a ruler knows, by names."""

    def __init__(self, ruler: ThingRuler):
        self.ruler = ruler
        self.styles = {name: k for k, name in enumerate(ruler.styles)}
        self.things = {name: k for k, name in enumerate(ruler.things)}
        keys = list(zip(ruler.thing.tolist(), ruler.style.tolist(), strict=True))
        self.rows = {key: k for k, key in reversed(list(enumerate(keys)))}
        self.texts = {
            (row.text, style): thing for row, (thing, style) in zip(ruler.known, keys, strict=True) if row.text
        }

    def find(self, row: Row) -> tuple[int, int, int] | str:
        """Numbers of thing, style and true row (-1: none); or why there are none."""
        text, name = row.text, row.style
        if not name and ", " in text:
            text, _, name = text.rpartition(", ")
        style = self.styles.get(name)
        if style is None and name.isdecimal() and int(name) < len(self.styles):
            style = int(name)
        if style is None:
            return f"its style {name!r} is none of {', '.join(self.styles)}"
        thing = self.things.get(row.thing) if row.thing else self.texts.get((text, style))
        if thing is None:
            return f"the ruler knows no thing {row.thing or text!r} in style {self.ruler.styles[style]!r}"
        if not self.ruler.drawn[style, thing]:
            return f"form {self.ruler.form} of the ruler was trained on no picture of {row.thing or text!r}"
        return thing, style, self.rows.get((thing, style), -1)


def hidden(ruler: ThingRuler, half: str = "", kind: str = "") -> Asked:
    """The questions of the hidden true pictures: of one half, of one kind of hiding ("unseen pair"), or all. Raises ValueError."""
    if half and half not in HALVES:
        raise ValueError(f"--half {half!r} is not one of {', '.join(HALVES)}")
    kinds = sorted({row.split for row, is_hidden in zip(ruler.known, ruler.hidden, strict=True) if is_hidden})
    if kind and kind not in kinds:
        raise ValueError(f"--kind {kind!r}: pictures are hidden as {', '.join(kinds) or 'nothing'}")
    wanted = [(not half or row.half == half) and (not kind or row.split == kind) for row in ruler.known]
    rows = (ruler.hidden & torch.tensor(wanted) & ruler.drawn[ruler.style, ruler.thing]).nonzero().flatten()
    return Asked(thing=ruler.thing[rows], style=ruler.style[rows], true=rows)


def only(found: Verdicts, keep: Tensor) -> Verdicts:
    """The verdicts on the pictures that are kept, bool (n,)."""
    return Verdicts(
        nearer=found.nearer[keep], others=found.others[keep], style=found.style[keep], asked=found.asked.where(keep)
    )


def by_fact(ruler: ThingRuler, found: Verdicts) -> Iterator[tuple[str, str, Verdicts]]:
    """(fact, value, verdicts) by half, kind of hiding, style and group, where the pictures have several values."""
    known = [ruler.known[row] if row >= 0 else None for row in found.asked.true.tolist()]
    names = {
        "half": [row.half if row else "" for row in known],
        "split": [row.split if row else "" for row in known],
        "style": [ruler.styles[style] for style in found.asked.style.tolist()],
        "group": [row.group if row else "" for row in known],
    }
    for what, values in names.items():
        if len(set(values)) > 1:
            for value in sorted(set(values)):
                yield what, value or "(none)", only(found, torch.tensor([each == value for each in values]))


def taken(embedded: Embedding, rows: Tensor) -> Embedding:
    """Some rows of an embedding."""
    return Embedding(thing=embedded.thing[rows], style=embedded.style[rows])


def references(ruler: ThingRuler, asked: Asked, embedded: Embedding | None = None, *, seed: int = 0) -> Iterator[Line]:
    """What stands beside a score: the ceiling, the copies, and `embedded` pictures under shuffled captions."""
    asked_once = asked.where(_first_of_each(asked))
    true = asked_once.where(asked_once.true >= 0)
    yield line("ceiling: the true pictures", judged(ruler, taken(ruler.embedded, true.true), true), seed)
    copies, questions = _other_styles(ruler, asked_once)
    yield line("copies: the other styles", judged(ruler, taken(ruler.embedded, copies), questions), seed)
    nearest, questions = _nearest_captions(ruler, asked_once)
    if len(questions):
        yield line("copies: the nearest caption", judged(ruler, taken(ruler.embedded, nearest), questions), seed)
    if embedded is not None and len(asked) > 1:
        yield line("shuffled captions", judged(ruler, embedded, _shuffled(asked, seed)), seed)


def _first_of_each(asked: Asked) -> Tensor:
    keys = list(zip(asked.thing.tolist(), asked.style.tolist(), strict=True))
    first = {key: k for k, key in reversed(list(enumerate(keys)))}
    return torch.tensor([first[key] == k for k, key in enumerate(keys)])


def _other_styles(ruler: ThingRuler, asked: Asked) -> tuple[Tensor, Asked]:
    """Rows of all pictures, not hidden, of the same things in other styles, and the question that each would answer."""
    by_thing: dict[int, list[int]] = {}
    for k in (~ruler.hidden).nonzero().flatten().tolist():
        by_thing.setdefault(int(ruler.thing[k]), []).append(k)
    rows, questions = [], []
    for number, (thing, style) in enumerate(zip(asked.thing.tolist(), asked.style.tolist(), strict=True)):
        others = [k for k in by_thing.get(thing, []) if ruler.style[k] != style]
        rows += others
        questions += [number] * len(others)
    index = torch.tensor(questions, dtype=torch.int64)
    return torch.tensor(rows, dtype=torch.int64), Asked(
        thing=asked.thing[index], style=asked.style[index], true=asked.true[index]
    )


def _nearest_captions(ruler: ThingRuler, asked: Asked) -> tuple[Tensor, Asked]:
    """For each question the row, not hidden, of another thing in the right style whose caption is nearest in its letters."""
    captions = _Captions([row.text for row in ruler.known])
    of_thing = {int(ruler.thing[k]): k for k, row in reversed(list(enumerate(ruler.known))) if row.text}
    usable = ~ruler.hidden & torch.tensor([bool(row.text) for row in ruler.known])
    asked = asked.where(torch.tensor([int(thing) in of_thing for thing in asked.thing], dtype=torch.bool))
    rows = []
    for thing, style in zip(asked.thing.tolist(), asked.style.tolist(), strict=True):
        near = captions.near(of_thing[thing])
        rows.append(int(near.masked_fill(~usable | (ruler.style != style) | (ruler.thing == thing), -1.0).argmax()))
    return torch.tensor(rows, dtype=torch.int64), asked


class _Captions:
    """Captions as unit vectors of their pieces of GRAM letters, rare ones weighing more (Sparck Jones 1972)."""

    def __init__(self, texts: Sequence[str]):
        self.num = len(texts)
        counts = [Counter(f" {text.lower()} "[k : k + GRAM] for k in range(len(text))) for text in texts]
        known = Counter(piece for each in counts for piece in each)
        self.vectors = [
            {piece: num * math.log(self.num / known[piece]) for piece, num in each.items()} for each in counts
        ]
        self.rows: dict[str, list[tuple[int, float]]] = {}
        for k, vector in enumerate(self.vectors):
            length = math.hypot(*vector.values()) or 1.0
            for piece, value in vector.items():
                self.rows.setdefault(piece, []).append((k, value / length))

    def near(self, row: int) -> Tensor:
        """How near all captions are to that of `row`, (n,)."""
        found = [0.0] * self.num
        for piece, weight in self.vectors[row].items():
            for k, value in self.rows[piece]:
                found[k] += weight * value
        return torch.tensor(found)


def _shuffled(asked: Asked, seed: int) -> Asked:
    """Each picture gets the question of another one: a random cyclic order."""
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return Asked(thing=asked.thing[other], style=asked.style[other], true=asked.true[other])


def style_ceiling(ruler: ThingRuler, asked: Asked) -> Rate:
    """How often the ruler is right about the styles of the true pictures of these questions."""
    true = asked.where(_first_of_each(asked) & (asked.true >= 0))
    return rate(judged(ruler, taken(ruler.embedded, true.true), true).style_right)


def of_the_ceiling(share: float, ceiling: Rate) -> str:
    """A share of right styles as words: of the ceiling, where the ruler itself is wrong about true pictures."""
    if not ceiling.num or ceiling.share >= CEILING:
        return ""
    return (
        f"{share / ceiling.share if ceiling.right else 0:.0%} of the ceiling ({ceiling.share:.1%}: below {CEILING:.0%})"
    )
