"""Captions of scenes: what they demand, as text and back.

"three red stars", "a red star and a blue ring", "two red stars above a blue ring", "a black cross inside a pink circle".
"""

import re
from dataclasses import dataclass

from data.shapes import COLORS
from data.world.kinds import OBJECT_KINDS, Object

RELATIONS = ("above", "left of", "inside")
NUMBERS = ("a", "two", "three")
PLURALS = {kind: kind + ("es" if kind.endswith("s") else "s") for kind in OBJECT_KINDS}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some equal objects, such as three red stars."""

    count: int
    kind: str
    color: str

    @property
    def text(self) -> str:
        """The group in words."""
        if self.count == 1:
            return f"{'an' if self.color[0] in 'aeiou' else 'a'} {self.color} {self.kind}"
        return f"{NUMBERS[self.count - 1]} {self.color} {PLURALS[self.kind]}"


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What a picture must show: groups of objects, no others, and where there is a relation, it holds between two groups."""

    groups: tuple[Group, ...]
    relation: str | None = None

    @property
    def text(self) -> str:
        """The caption in words."""
        *first, last = [group.text for group in self.groups]
        return f" {self.relation or 'and'} ".join([", ".join(first), last] if first else [last])

    @property
    def num_objects(self) -> int:
        """Number of objects in all groups."""
        return sum(group.count for group in self.groups)


def parse(text: str) -> Caption:
    """The caption that a text means; a ValueError if it is not one of this world."""
    parts = re.split(rf" ({'|'.join(RELATIONS)}) ", text.strip())
    named = [parts[0], parts[2]] if len(parts) == 3 else re.split(r", | and ", text.strip())
    if len(parts) > 3:
        raise ValueError(f"caption {text[:80]!r} has two relations; one is allowed")
    return Caption(groups=tuple(_group(each, text) for each in named), relation=parts[1] if len(parts) == 3 else None)


def relation(a: Object, b: Object) -> str | None:
    """How a lies to b: inside, above (within 45 degrees of straight up) or left of it. None if b lies so to a."""
    x, y = b.x - a.x, b.y - a.y
    if (x * x + y * y) ** 0.5 + min(a.radius, b.radius) <= max(a.radius, b.radius):
        return "inside" if a.radius < b.radius else None
    if abs(y) > abs(x):
        return "above" if y > 0 else None
    return "left of" if x > 0 else None


def _group(words: str, text: str) -> Group:
    number, color, kind = [*words.split(), "", "", ""][:3]
    number = "a" if number == "an" else number
    singular = kind if number == "a" else next((one for one, many in PLURALS.items() if many == kind), kind)
    if number in NUMBERS and color in COLORS and singular in OBJECT_KINDS:
        group = Group(count=NUMBERS.index(number) + 1, kind=singular, color=color)
        if group.text == words:
            return group
    raise ValueError(
        f"caption {text[:80]!r}: {words[:40]!r} is not a number (a, two, three), a color ({', '.join(COLORS)}) "
        f"and a kind ({', '.join(OBJECT_KINDS)})"
    )
