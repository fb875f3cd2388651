"""What is asked, and of which pictures: the ballots of a vote, and what is left and what comes first for a voter."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from cascade.judge.vote.sides import Picture, Side


class Ask(StrEnum):
    """The question."""

    BETTER = "better"
    REAL = "real"
    CAPTION = "caption"


CHOICES = {  # by question: the keys left, down and right
    Ask.BETTER: ("left", "tie", "right"),
    Ask.REAL: ("real", "unsure", "generated"),
    Ask.CAPTION: ("yes", "partly", "no"),
}
QUESTIONS = {
    Ask.BETTER: "Which is better?",
    Ask.REAL: "Real or generated?",
    Ask.CAPTION: "Does it show the caption?",
}
BY_NAME, BY_CAPTION = "name", "caption"
HOW = ("auto", BY_NAME, BY_CAPTION)


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """Pictures that are asked about at once: one, or two of a pair. key: its name in the votes file. sides: their numbers."""

    key: str
    sides: tuple[int, ...]
    pictures: tuple[Picture, ...]
    caption: str

    @property
    def item(self) -> str:
        """The pair that it belongs to, the same for all sides."""
        return self.key.partition("/")[2]


def make_ballots(ask: Ask, sides: Sequence[Side], *, by: str = "auto", num: int = 0, seed: int = 0) -> list[Ballot]:
    """All ballots, in the order of their keys. by: how pictures pair. num: most pairs (of real: pictures of a side); 0: all.

    Raises ValueError for sides without a common name or caption, and for pictures without a caption where that is asked about.
    """
    if by not in HOW:
        raise ValueError(f"--pair {by}: allowed are {', '.join(HOW)}")
    if num < 0:
        raise ValueError(f"--num {num}: give a number of pairs, or 0 for all")
    if ask is Ask.REAL:
        most = min(len(side.pictures) for side in sides)  # as many of each, so that a guess is right half of the time
        ballots = []
        for i, side in enumerate(sides):
            drawn = _drawn((each.name for each in side.pictures), min(num or most, most), seed)
            ballots += [_single(i, each) for each in side.pictures if each.name in drawn]
        return ballots
    pairs = pairs_of(sides, by) if len(sides) > 1 else {each.name: (each,) for each in sides[0].pictures}
    if ask is Ask.CAPTION:
        pairs = {name: row for name, row in pairs.items() if all(each.caption for each in row)}
        if not pairs:
            raise ValueError(
                f"{sides[0].name}: no picture has a caption; add a metadata.jsonl with file_name and text, or use sample.py"
            )
    drawn = _drawn(pairs, num or len(pairs), seed)
    names = [name for name in pairs if name in drawn]
    if ask is Ask.CAPTION:
        return [_single(i, pairs[name][i], name) for i in range(len(sides)) for name in names]
    return [_double(i, j, name, pairs[name]) for i, j in combinations(range(len(sides)), 2) for name in names]


def pairs_of(sides: Sequence[Side], by: str) -> dict[str, tuple[Picture, ...]]:
    """Name of a pair to its picture of each side: equal names, or the n-th of equal captions.

    auto: by name, unless a name has several captions (000000.png of two lists of prompts). Raises ValueError.
    """
    names = _common([{each.name: each for each in side.pictures} for side in sides])
    if by == BY_NAME or (by == "auto" and names and not any(_differ(row) for row in names.values())):
        if not names:
            raise ValueError(f"{_told(sides)}: no name of a picture is in all of them; rename, or --pair caption")
        return names
    found = _common([_by_caption(side) for side in sides])
    if found:
        return found
    if names:
        name, row = next((name, row) for name, row in names.items() if _differ(row))
        captions = " and ".join(repr(each.caption[:40]) for each in row)
        raise ValueError(
            f"{_told(sides)}: {name} is {captions}, and no caption is in all; --pair name pairs them still"
        )
    raise ValueError(f"{_told(sides)}: neither a name nor a caption of a picture is in all of them; compare others")


def _told(sides: Sequence[Side]) -> str:
    return ", ".join(side.name for side in sides)


def _differ(row: Sequence[Picture]) -> bool:
    return len({each.caption for each in row if each.caption}) > 1


def _common(columns: Sequence[dict[str, Picture]]) -> dict[str, tuple[Picture, ...]]:
    names = sorted(set(columns[0]).intersection(*columns[1:]))
    return {name: tuple(column[name] for column in columns) for name in names}


def _by_caption(side: Side) -> dict[str, Picture]:
    found: dict[str, Picture] = {}
    seen: dict[str, int] = {}
    for each in side.pictures:
        if each.caption:
            seen[each.caption] = seen.get(each.caption, 0) + 1
            found[f"{each.caption} #{seen[each.caption]}"] = each
    return found


def _single(side: int, picture: Picture, name: str = "") -> Ballot:
    return Ballot(key=f"{side}/{name or picture.name}", sides=(side,), pictures=(picture,), caption=picture.caption)


def _double(i: int, j: int, name: str, row: Sequence[Picture]) -> Ballot:
    caption = row[i].caption if row[i].caption == row[j].caption else ""
    return Ballot(key=f"{i}-{j}/{name}", sides=(i, j), pictures=(row[i], row[j]), caption=caption)


def _drawn(names: Iterable[str], num: int, seed: int) -> set[str]:
    return set(sorted(names, key=lambda name: draw(seed, "pair", name))[:num])


def draw(seed: int, *words: str) -> str:
    """A seeded hash, which orders and takes sides."""
    return hashlib.sha256("\0".join((str(seed), *words)).encode("utf-8", "surrogateescape")).hexdigest()


def order_for(voter: str, ballots: Sequence[Ballot], seed: int) -> list[Ballot]:
    """The ballots in the order in which a voter gets them."""
    return sorted(ballots, key=lambda each: draw(seed, "order", voter, each.key))


def shown_to(voter: str, ballot: Ballot, seed: int) -> tuple[int, ...]:
    """The positions in `ballot.pictures` from left to right."""
    places = tuple(range(len(ballot.pictures)))
    return places[::-1] if int(draw(seed, "side", voter, ballot.key)[0], 16) % 2 else places
