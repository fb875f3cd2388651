"""Whether pictures show their captions, and how often: "940 of 1,000 captions drawn right", by kind, colour, relation, count."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import permutations

from data.world.captions import Caption, parse, relation
from data.world.kinds import Object
from data.world.reader import Picture, read

ASPECTS = ("kind", "color", "relation", "count")


@dataclass(frozen=True, kw_only=True)
class Score:
    """How many captions were drawn right; by aspect how many of those that could fail (relation: the captions with one)."""

    num: int = 0
    right: int = 0
    by_aspect: dict[str, tuple[int, int]] = field(default_factory=dict)  # (right, out of)
    wrong: tuple[int, ...] = ()  # positions of the pictures that do not show their captions

    @property
    def fraction(self) -> float:
        """Fraction of captions drawn right; 0 if there is none."""
        return self.right / max(1, self.num)

    def __str__(self) -> str:
        parts = [f"{aspect} {right:,} of {num:,}" for aspect, (right, num) in self.by_aspect.items() if num]
        return "; ".join([f"{self.right:,} of {self.num:,} captions drawn right", *parts])


def score(pictures: Iterable[Picture], captions: Iterable[str]) -> Score:
    """Read every picture and compare it with its caption; a ValueError if their numbers differ."""
    results = []
    for picture, text in zip(pictures, captions, strict=True):
        caption = parse(text)
        results.append((caption, compare(read(picture), caption)))
    by_aspect = {}
    for aspect in ASPECTS:
        drawn = [aspect not in found for caption, found in results if aspect != "relation" or caption.relation]
        by_aspect[aspect] = (sum(drawn), len(drawn))
    wrong = tuple(k for k, (_, found) in enumerate(results) if found)
    return Score(num=len(results), right=len(results) - len(wrong), by_aspect=by_aspect, wrong=wrong)


def shows(picture: Picture, caption: str) -> bool:
    """Whether the picture shows what the caption says, and nothing else."""
    return not mistakes(picture, caption)


def mistakes(picture: Picture, caption: str) -> frozenset[str]:
    """The aspects in which a picture differs from its caption; empty if it shows it."""
    return compare(read(picture), parse(caption))


def compare(objects: tuple[Object, ...], caption: Caption) -> frozenset[str]:
    """The aspects in which objects differ from a caption.

    If every thing (kind and colour) of the caption is there, and no other, only numbers can differ: count. Otherwise the
    objects are assigned to those of the caption with the fewest differences; what is left over or missing is count. The
    relation must hold between all objects assigned to its two groups, and both groups must have one. An empty picture is
    wrong in all aspects.
    """
    if not objects:
        return frozenset(ASPECTS if caption.relation else set(ASPECTS) - {"relation"})
    wanted = [(number, each) for number, each in enumerate(caption.groups) for _ in range(each.count)]
    things = {(each.kind, each.color) for each in caption.groups}
    if {(each.kind, each.color) for each in objects} == things and len(things) == len(caption.groups):
        groups = [[o for o in objects if (o.kind, o.color) == (each.kind, each.color)] for each in caption.groups]
        return _together(caption, Counter(), groups, [each.count for each in caption.groups] != [*map(len, groups)])
    best: frozenset[str] | None = None
    fewest = (1_000, 1_000)
    num = max(len(objects), len(wanted))
    slots: list[Object | None] = [*objects, *[None] * (num - len(objects))]
    for order in permutations(slots, len(wanted)):
        differ: Counter[str] = Counter()
        groups = [[] for _ in caption.groups]
        for seen, (number, each) in zip(order, wanted, strict=True):
            if seen is not None:
                differ["kind"] += seen.kind != each.kind
                differ["color"] += seen.color != each.color
                groups[number].append(seen)
        found = _together(caption, differ, groups, len(objects) != len(wanted))
        if (cost := (differ.total(), len(found))) < fewest:
            fewest, best = cost, found
    return best or frozenset()


def _together(caption: Caption, differ: Counter[str], groups: list[list[Object]], miscounted: bool) -> frozenset[str]:
    found = {aspect for aspect in differ if differ[aspect]}
    if miscounted:
        found.add("count")
    if caption.relation:
        pairs = [(a, b) for a in groups[0] for b in groups[-1]]
        if not pairs or any(relation(a, b) != caption.relation for a, b in pairs):
            found.add("relation")
    return frozenset(found)
