"""What an emoji shows: its code, and what Unicode calls it.

A *code* is a sequence of code points in hexadecimal, joined by "-", without leading zeros and without the variation selector, which
some packages write and others leave out.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from data.styles.packages import DERIVED, GROUPS, KEYWORDS, read

SELECTOR = "fe0f"
TONES = frozenset(("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"))
PARTS = "Component"  # the group of what is never shown alone: hair, tones
FAMILY = "family"  # a subgroup: groups of people, all of one outline
MOVED = {"1f46a": FAMILY}  # Unicode 15.1 took the oldest family away from its kin
ANNOTATIONS = "{}/en/annotations.json"
LIST = "emoji.json"


@dataclass(frozen=True, kw_only=True)
class Concept:
    """The short name, the group and subgroup of the emoji list, and the keywords, among which the name may be."""

    name: str
    group: str
    subgroup: str
    keywords: tuple[str, ...]


def plain(code: str) -> str:
    """A code as this package writes it: plain("0023-FE0F-20E3") is "23-20e3"."""
    return "-".join(point.lstrip("0") for point in code.lower().split("-") if point != SELECTOR)


def code_of(characters: str) -> str:
    """The code of an emoji."""
    return plain("-".join(f"{ord(character):x}" for character in characters))


def has_tone(code: str) -> bool:
    """Whether a code has a skin tone."""
    return not TONES.isdisjoint(code.split("-"))


def concepts(folder: Path) -> dict[str, Concept]:
    """All emoji that have a name and a group, by code, without skin tones, from the packages in `folder`."""
    told: dict[str, dict[str, list[str]]] = {}
    for package, kind in ((KEYWORDS, "annotations"), (DERIVED, "annotationsDerived")):
        name = ANNOTATIONS.format(kind)
        content = json.loads(read(folder, package, name)[name])
        told |= {code_of(characters): entry for characters, entry in content[kind]["annotations"].items()}
    found = {}
    for row in json.loads(read(folder, GROUPS, LIST)[LIST]):
        code = plain(row["codes"].replace(" ", "-"))
        if code in told and row["group"] != PARTS and not has_tone(code):
            found[code] = Concept(
                name=told[code]["tts"][0],
                group=row["group"],
                subgroup=MOVED.get(code, row["subgroup"]),
                keywords=tuple(told[code].get("default", ())),
            )
    return found
