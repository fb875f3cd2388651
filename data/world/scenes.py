"""Scenes of one to three objects with captions: picture k is a function of (seed, k), endless, at any size.

A part of the world can be hidden: `scene(k, show="train")` never shows a hidden combination, not even by chance, and the
caption of every `scene(k, show="test")` names one.
"""

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from data.files import make_folder
from data.shapes import COLORS
from data.world.captions import RELATIONS, Caption, Group, relation
from data.world.kinds import CONTAINERS, HOLE, OBJECT_KINDS, Object, coverage

Show = Literal["all", "train", "test"]

MARGIN = 0.04  # between an object and the picture's edge
GAP = 0.1  # between two objects, so that they are apart at 16 px
CLEAR = 0.04  # by how much every direction is above or left of, rather than on the diagonal
RADII = {1: (0.2, 0.35), 2: (0.14, 0.22), 3: (0.13, 0.16)}  # by number of objects
CONTAINER = (0.37, 0.44)  # radius
MAX_DRAWS = 1_000  # of captions, and of places for each: most need a few


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """Combinations kept from a train set: (kind, colour) pairs, and (kind, relation, kind) triples."""

    pairs: frozenset[tuple[str, str]] = frozenset()
    relations: frozenset[tuple[str, str, str]] = frozenset()

    def in_picture(self, objects: tuple[Object, ...]) -> bool:
        """Whether the objects show a hidden combination, in their caption or not."""
        triples = {(a.kind, relation(a, b), b.kind) for a, b in permutations(objects, 2)}
        return bool({(each.kind, each.color) for each in objects} & self.pairs or triples & self.relations)

    def in_caption(self, caption: Caption) -> bool:
        """Whether the caption names a hidden combination."""
        kinds = [group.kind for group in caption.groups]
        triple = (kinds[0], caption.relation or "", kinds[-1])
        return triple in self.relations or any((each.kind, each.color) in self.pairs for each in caption.groups)


def _hidden() -> Hidden:
    """Each kind lacks one colour, each kind or container one partner in each relation."""
    num, colors = len(OBJECT_KINDS), list(COLORS)
    pairs = {(kind, colors[(3 * k + 1) % len(colors)]) for k, kind in enumerate(OBJECT_KINDS)}
    beside = {
        (OBJECT_KINDS[k], side, OBJECT_KINDS[(k + 2 + r) % num])
        for r, side in enumerate(RELATIONS[:2])
        for k in range(num)
    }
    inside = {(OBJECT_KINDS[(OBJECT_KINDS.index(outer) + 4) % num], "inside", outer) for outer in CONTAINERS}
    return Hidden(pairs=frozenset(pairs), relations=frozenset(beside | inside))


HIDDEN = _hidden()
HIDDEN_PAIRS = Hidden(pairs=HIDDEN.pairs)
HIDDEN_RELATIONS = Hidden(relations=HIDDEN.relations)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of a picture: its objects, a caption that describes them all, and a light grey level behind them."""

    caption: Caption
    objects: tuple[Object, ...]
    background: int


def scene(
    index: int,
    seed: int = 0,
    *,
    show: Show = "all",
    hidden: Hidden = HIDDEN,
    objects: Collection[int] = tuple(RADII),
    relations: Collection[str] = ("none", *RELATIONS),
) -> Scene:
    """The content of picture `index`, of as many objects as one of `objects`, its caption telling one of `relations`.

    `relations` name what a training should see more of; "none" is a caption that tells no relation. A ValueError if nothing
    is left to show.
    """
    if not set(objects) & set(RADII):
        raise ValueError(
            f"objects {tuple(objects)}: scenes have {', '.join(map(str, RADII))}; name some of these numbers"
        )
    if not relations or not set(relations) <= {"none", *RELATIONS}:
        raise ValueError(
            f"relations {tuple(relations)}: captions tell {', '.join(RELATIONS)} or none; name some of these"
        )
    draws = _draws(index, seed)
    for _ in range(MAX_DRAWS):
        caption = _caption(draws)
        if caption.num_objects not in objects or (caption.relation or "none") not in relations:
            continue
        if show != "all" and hidden.in_caption(caption) != (show == "test"):
            continue
        for _ in range(MAX_DRAWS):
            placed = _place(caption, draws)
            if placed and not (show == "train" and hidden.in_picture(placed)):
                return Scene(caption=caption, objects=placed, background=int(225 + 31 * next(draws)))
    raise ValueError(
        f"no scene for show={show!r}, objects {tuple(objects)}, relations {tuple(relations)} in {MAX_DRAWS:,} tries: hide fewer "
        "combinations, or some for show='test'; relations need two objects, 'inside' exactly two"
    )


def draw(what: Scene, size: int) -> Image.Image:
    """Draw a scene as a picture of size x size px, with smooth edges; later objects cover earlier ones."""
    picture = np.full((size, size, 3), float(what.background))
    finer = max(2, math.ceil(128 / size))
    for each in what.objects:
        rows, columns = (_around(center, each.radius, size) for center in (each.y, each.x))
        share = coverage(each, rows, columns, size, finer)[:, :, None]
        picture[rows, columns] += share * (np.array(COLORS[each.color]) - picture[rows, columns])
    return Image.fromarray(np.rint(picture).astype(np.uint8))


def write_folder(
    folder: str | Path,
    num: int,
    size: int,
    seed: int = 0,
    *,
    show: Show = "all",
    hidden: Hidden = HIDDEN,
    objects: Collection[int] = tuple(RADII),
    relations: Collection[str] = ("none", *RELATIONS),
) -> Path:
    """Write pictures 0 to num - 1 and their metadata.jsonl, a source for data.pack; all that chooses a scene as of `scene`."""
    choose = partial(scene, seed=seed, show=show, hidden=hidden, objects=objects, relations=relations)
    choose(0)  # what cannot be shown is refused before there is a folder
    folder = Path(folder)
    make_folder(folder)
    rows = []
    for index in range(num):
        what = choose(index)
        name = f"{index:06d}.png"
        draw(what, size).save(folder / name)
        rows.append({"file_name": name, "text": what.caption.text, "label": what.caption.relation or "none"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _draws(index: int, seed: int) -> Iterator[float]:
    """Endless uniform numbers in [0, 1): raw words, as NumPy keeps these the same in all its versions."""
    bits = np.random.PCG64(np.random.SeedSequence((seed, index)))
    while True:
        yield from ((bits.random_raw(64) >> np.uint64(11)) / 2.0**53).tolist()


def _caption(draws: Iterator[float]) -> Caption:
    def pick(choices):
        return choices[int(next(draws) * len(choices))]

    def group(count: int = 1, kinds: tuple[str, ...] = OBJECT_KINDS) -> Group:
        return Group(count=count, kind=pick(kinds), color=pick(list(COLORS)))

    form = pick(("count", "count", "list", *RELATIONS))
    while True:
        if form == "count":
            return Caption(groups=(group(pick((1, 2, 3))),))
        if form == "list":
            groups = tuple(group() for _ in range(pick((2, 3))))
        elif form == "inside":
            groups = (group(), group(kinds=CONTAINERS))
        else:
            groups = tuple(map(group, pick(((1, 1), (1, 2), (2, 1)))))
        things = {each.color if form == "inside" else (each.kind, each.color) for each in groups}
        if len(things) == len(groups):
            return Caption(groups=groups, relation=form if form in RELATIONS else None)


def _place(caption: Caption, draws: Iterator[float]) -> tuple[Object, ...]:
    """One try to place the caption's objects; empty if they are too close, or do not lie as the caption says."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(draws)

    def put(group: Group, radius: float, low: float, high: float) -> Object:
        return Object(kind=group.kind, color=group.color, x=between(low, high), y=between(low, high), radius=radius)

    if caption.relation == "inside":
        inner, outer = caption.groups
        radius = between(*CONTAINER)
        around = put(outer, radius, radius + MARGIN, 1 - radius - MARGIN)
        room = HOLE * radius - 0.04  # the same for all containers
        small = between(0.13, min(0.2, room))
        angle, slack = between(0, 2 * math.pi), (room - small) * math.sqrt(next(draws))
        x, y = around.x + slack * math.cos(angle), around.y + slack * math.sin(angle)
        return (around, Object(kind=inner.kind, color=inner.color, x=x, y=y, radius=small))
    objects: list[Object] = []
    starts = []
    for group in caption.groups:
        starts.append(len(objects))
        for _ in range(group.count):
            radius = between(*RADII[caption.num_objects])
            objects.append(put(group, radius, radius + MARGIN, 1 - radius - MARGIN))
            if not all(_apart(each, objects[-1]) for each in objects[:-1]):
                return ()
    if caption.relation:
        first, second = objects[: starts[1]], objects[starts[1] :]
        if any(relation(a, b) != caption.relation for a in first for b in second):
            return ()
    return tuple(objects)


def _apart(a: Object, b: Object) -> bool:
    x, y = abs(a.x - b.x), abs(a.y - b.y)
    return math.hypot(x, y) >= a.radius + b.radius + GAP and abs(x - y) >= CLEAR


def _around(center: float, radius: float, size: int) -> slice:
    return slice(max(0, math.floor((center - radius) * size) - 1), min(size, math.ceil((center + radius) * size) + 1))
