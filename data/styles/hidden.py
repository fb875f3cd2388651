"""What is never trained on, so that "the same thing in another style" can be measured against the truth.

A *thing* is an emoji without gender: "man judge", "woman judge" and "judge" are one drawing but for the hair, and all families are
one outline. The two *finishes* of Fluent share their outlines (masks at 64 px correlate at 0.99, of other styles at 0.6 to 0.7), so
they are one *family* of styles. Hidden is, for all of a thing at once,

- an "unseen pair": one family of every fifth thing that is drawn in at least three, so that two others show the thing,
- an "unseen finish": one of the two finishes of one thing in twenty, whose outline the other shows.

All draws are by the hash of the thing, so they stay when things are added. Two thirds of the hidden things are `test`, for
numbers that are reported; with the others, `dev`, settings are chosen.
"""

import hashlib
from collections.abc import Set
from dataclasses import dataclass

from data.styles.concepts import FAMILY, Concept

FINISHES = frozenset(("fluent 3d", "fluent flat"))
PEOPLE = frozenset(("1f468", "1f469", "1f9d1"))  # man, woman, person
GENDERS = frozenset(("2640", "2642"))
JOINER = "200d"
SEEN, PAIR, FINISH = "train", "unseen pair", "unseen finish"
FEWEST_FAMILIES = 3  # of a thing of which a pair may be hidden
PARTS = 20  # into which things are divided: in 4 of them a pair is hidden, in 1 a finish


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """The styles in which a thing is not trained, and as which part of the data they count."""

    part: str = SEEN
    styles: frozenset[str] = frozenset()

    def part_of(self, style: str) -> str:
        """The part to which the thing in a style belongs."""
        return self.part if style in self.styles else SEEN


def thing_of(code: str, concept: Concept) -> str:
    """The thing that an emoji shows: its code without gender, man and woman being a person where they are joined to something.

    Empty for the two signs of gender themselves.
    """
    if concept.subgroup == FAMILY:
        return FAMILY
    points = [point for point in code.split("-") if point != JOINER and point not in GENDERS]
    return "-".join("person" if len(points) > 1 and point in PEOPLE else point for point in points)


def hide(thing: str, styles: Set[str]) -> Hidden:
    """What of a thing that is drawn in `styles` is hidden."""
    turn, part = divmod(_draw(thing), PARTS)
    finishes = sorted(FINISHES)
    families = sorted({finishes[0] if style in FINISHES else style for style in styles})
    if part < 4 and len(families) >= FEWEST_FAMILIES:
        family = families[turn % len(families)]
        return Hidden(part=PAIR, styles=FINISHES if family in FINISHES else frozenset((family,)))
    if part == 4 and styles >= FINISHES:
        return Hidden(part=FINISH, styles=frozenset((finishes[turn % 2],)))
    return Hidden()


def half_of(thing: str) -> str:
    """Whether a hidden thing is of the half dev or test."""
    return "test" if hashlib.sha256(f"half {thing}".encode()).digest()[0] % 3 else "dev"


def _draw(thing: str) -> int:
    return int.from_bytes(hashlib.sha256(thing.encode()).digest())
