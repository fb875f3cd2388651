"""Several captions of a picture, as `--caption` asks for them: kinds of caption, their columns, a picture's texts of each.

A column holds a text, or a list of texts: in JSON, or where `--list-column` names what parts them. A list gives one caption for
each of its entries; joined columns give one for each combination. Readers draw a kind by its probability, then one of its texts.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from data.captions import check_caption
from data.errors import nearest
from data.index import TINY, CaptionKind

MOST = 100  # captions of one kind of one picture
JOINED = ", "  # between the texts of joined columns
FLAG, LIST_FLAG = "--caption", "--list-column"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The kinds of caption of a data set; separators: by column, what parts its text into a list."""

    kinds: tuple[CaptionKind, ...] = ()
    separators: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of all kinds, each once."""
        return tuple(dict.fromkeys(column for kind in self.kinds for column in kind.columns))

    def texts(self, facts: Mapping[str, Any]) -> list[list[str]]:
        """The captions of a picture, a list for each kind, [] where a column of it is empty. Raises ValueError."""
        return [self._of_kind(kind, facts) for kind in self.kinds]

    def _of_kind(self, kind: CaptionKind, facts: Mapping[str, Any]) -> list[str]:
        entries = [list(self._entries(column, facts.get(column))) for column in kind.columns]
        if (num := math.prod(map(len, entries))) > MOST:
            raise ValueError(f"more than {MOST} captions of one kind: {num} of {kind.name}")
        return list(dict.fromkeys(JOINED.join(texts) for texts in product(*entries)))

    def _entries(self, column: str, value: Any) -> Iterator[str]:
        texts = [] if value is None else value if isinstance(value, list) else [value]
        for text in texts:
            if not isinstance(text, str):
                raise ValueError("caption is no text")
            parts = text.split(self.separators[column]) if column in self.separators else [text]
            yield from filter(None, map(check_caption, parts))


NO_PLAN = Plan()  # of pictures with one caption, or none


def parse_plan(captions: Sequence[str], lists: Sequence[str]) -> Plan:
    """The plan of ["name=0.5", "keywords+subgroup=0.25"] and ["keywords=|"]. Raises ValueError for what means nothing."""
    kinds = tuple(map(_kind, captions))
    plan = Plan(kinds=kinds, separators=dict(_separator(text) for text in lists))
    names = [kind.name for kind in kinds]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{FLAG} {twice!r} is given twice; give it once, with the sum of the probabilities")
    if (total := math.fsum(kind.probability for kind in kinds)) > 1 + TINY:
        raise ValueError(
            f"{FLAG}: the probabilities of {', '.join(names)} add up to {total:.6g}, at most 1 is possible; lower some "
            "(what is left to 1 is no caption)"
        )
    if unused := next((column for column in plan.separators if column not in plan.columns), None):
        raise ValueError(f"{LIST_FLAG} {unused!r} is in no {FLAG}{nearest(unused, plan.columns)}; leave it out")
    return plan


def _kind(text: str) -> CaptionKind:
    columns, _, number = text.rpartition("=")
    if "=" in columns and "," in columns:
        single = " ".join(f"{FLAG} {each}" for each in text.split(","))
        raise ValueError(f"{FLAG} {text!r}: the option is given once a caption; write {single}")
    try:
        probability = float(number)
    except ValueError:
        probability = math.nan
    if not columns or math.isnan(probability):
        raise ValueError(f"{FLAG} {text!r} is not COLUMN=PROBABILITY; write {FLAG} {columns or number or 'name'}=0.5")
    if not 0 < probability <= 1:
        raise ValueError(f"{FLAG} {text!r}: a probability is above 0 and at most 1; write {FLAG} {columns}=0.5")
    names = columns.split("+")
    if not all(names):
        raise ValueError(f"{FLAG} {text!r}: a column has no name; write columns with a single + between them")
    return CaptionKind(columns=names, probability=probability)


def _separator(text: str) -> tuple[str, str]:
    column, equals, separator = text.partition("=")
    if not (column and equals and separator.strip()):
        raise ValueError(f"{LIST_FLAG} {text!r} is not COLUMN=SEPARATOR; write {LIST_FLAG} '{column or 'keywords'}=|'")
    return column, separator.strip()


def check_columns(columns: Sequence[str], names: set[str], where: str) -> None:
    """Raise ValueError for a column that is not among `names`."""
    if missing := next((column for column in columns if column not in names), None):
        known = ", ".join(sorted(names)[:20]) or "nothing"
        raise ValueError(f"{FLAG}: column {missing!r} is not in {where}, which has {known}{nearest(missing, names)}")


def check_used(kinds: Sequence[CaptionKind]) -> None:
    """Raise ValueError for a kind of caption that no packed picture has."""
    if all(not kind.pictures for kind in kinds):
        raise ValueError(f"{FLAG}: all captions of all pictures are empty; name columns that hold texts")
    if empty := next((kind for kind in kinds if not kind.pictures), None):
        raise ValueError(
            f"{FLAG}: {empty.name} is empty for every picture; leave it out, or name columns that hold texts"
        )


def check_listed(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError for a kind of caption that no listed picture has, from the columns of each, before one is encoded."""
    seen: set[int] = set()
    readable = False
    for row in rows:
        try:
            texts = plan.texts(row)
        except ValueError:
            continue  # counted as bad when it is packed
        readable = True
        seen |= {k for k, each in enumerate(texts) if each}
        if len(seen) == len(plan.kinds):
            return
    if readable:
        check_used([kind.model_copy(update={"pictures": int(k in seen)}) for k, kind in enumerate(plan.kinds)])


def first_of(captions: list[list[str]]) -> str:
    """The first caption of a picture, "" if it has none: the one that is held-out pictures' and that other programs read."""
    return next((text for texts in captions for text in texts), "")


def encoded(captions: list[list[str]], lengths: Mapping[str, int]) -> bytes:
    """The content of `captions.json`. lengths: tokens of each text whose features `captions.npy` holds, in its order."""
    return json.dumps({"captions": captions, "features": dict(lengths)}, ensure_ascii=False).encode()
