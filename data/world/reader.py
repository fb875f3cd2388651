"""Reads a picture of the world: which objects it shows, of what kind, colour, place and size. No network.

Analysis by synthesis. Every pixel is background + a * (colour A - background) + b * (colour B - background), with a and
b the shares that two colours cover: smoothed edges are exact mixtures. The shares of each patch of paint are unmixed,
then every kind is fitted to them (centre and size start from their moments, Gauss-Newton does the rest), and the kind
that leaves the least is the one that was drawn. Pictures are read at about 64 px, or at their own size if smaller.
"""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from PIL import Image

from data.shapes import COLORS
from data.world.kinds import AREAS, OBJECT_KINDS, Object, coverage

MIN_SIZE = 16  # px
VISIBLE = 40  # levels between a colour and the background; closer ones are not searched for
READ_SIZE = 64  # px: larger pictures are averaged down to nearly this
PAINTED = 0.25  # share above which a pixel belongs to a patch
SOLID = 0.4  # the same within a patch of two colours, where noise weighs more
MIN_AREA = 0.008  # of the picture; the smallest true object (a star) has 0.019
MAX_OBJECTS = 12  # of a picture, largest first: no caption has so many objects
MIN_FIT = 0.8  # below, an object is of no kind
UNCLEAR = "unclear"  # the kind of such an object
SHARPEST = 3  # kinds that are fitted to the end
STEPS = 3  # of Gauss-Newton

Picture = Image.Image | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Seen(Object):
    """An object in a picture. `fit` is the part of its paint that the kind explains, at most 1; an unclear one has its nearest."""

    fit: float


def read(picture: Picture) -> tuple[Seen, ...]:
    """The objects in a square RGB picture (a Pillow image, or uint8 in (height, width, 3)), from the largest to the smallest."""
    pixels = _pixels(picture)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    paint = pixels - np.median(border, axis=0)
    palette = {name: color - np.median(border, axis=0) for name, color in COLORS.items()}
    palette = {name: color for name, color in palette.items() if np.linalg.norm(color) > VISIBLE}
    length = np.linalg.norm(list(palette.values()), axis=1)
    shares = (paint @ (np.stack(list(palette.values())) / length[:, None] ** 2).T).max(2)
    seen: list[Seen] = []
    painted = shares > PAINTED
    for patch in _patches(painted, shares, MIN_AREA * shares.size)[:MAX_OBJECTS]:
        window = _window(patch)
        near = _grown(patch) & ~_grown(painted & ~patch)
        seen += _objects(paint[window] * (near | patch)[window][:, :, None], palette, window, len(pixels))
    return tuple(sorted(seen, key=lambda each: -each.radius)[:MAX_OBJECTS])


def _pixels(picture: Picture) -> np.ndarray:
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"a picture must be uint8 in (height, width, 3), got {picture.dtype} in {picture.shape}")
        picture = Image.fromarray(picture)
    width, height = picture.size
    if width != height or width < MIN_SIZE:
        raise ValueError(f"a picture must be square, of {MIN_SIZE} px or more, got {width} x {height}")
    rgb = picture.convert("RGB")
    return np.asarray(rgb.reduce(max(1, width // READ_SIZE)), float)


def _patches(mask: np.ndarray, shares: np.ndarray, least: float) -> list[np.ndarray]:
    """The connected parts of a mask (corners connect) with at least `least` px of paint, largest first."""
    wide = mask.shape[1] + 1  # a column more, so that no row's end touches the next row's start
    left = set((np.nonzero(mask)[0] * wide + np.nonzero(mask)[1]).tolist())
    near = {-wide - 1, -wide, -wide + 1, -1, 1, wide - 1, wide, wide + 1}
    found = []
    while left:
        first = left.pop()
        part, todo = [first], [first]
        while todo:
            here = todo.pop()
            beside = [here + step for step in near if here + step in left]
            left.difference_update(beside)
            todo += beside
            part += beside
        whole = np.zeros_like(mask)
        whole[tuple(np.divmod(part, wide))] = True
        found.append((shares[whole].sum(), whole))
    return [part for area, part in sorted(found, key=lambda each: -each[0]) if area >= least]


def _grown(mask: np.ndarray) -> np.ndarray:
    """A mask with the pixels that touch it."""
    wide = np.pad(mask, 1)
    tall = wide[:-2] | wide[1:-1] | wide[2:]
    return tall[:, :-2] | tall[:, 1:-1] | tall[:, 2:]


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of a mask and two pixels around it, within the picture."""
    sides = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    rows, columns = (slice(max(0, side[0] - 2), min(len(mask), side[-1] + 3)) for side in sides)
    return rows, columns


def _objects(paint: np.ndarray, palette: dict[str, np.ndarray], window: tuple[slice, slice], size: int) -> list[Seen]:
    """The objects of one patch of paint: one, one inside another, or several that touch."""
    (one, two), shares = _unmixed(paint, np.stack(list(palette.values())))
    corner, least = (window[0].start, window[1].start), MIN_AREA * size**2
    parts = [
        (color, part, np.where(_grown(part), share, 0))
        for color, share in zip((one, two), shares, strict=True)
        for part in _patches(share > SOLID, share, least)
    ]
    around = [{other for other, outer, _ in parts if _surrounds(outer, part)} for _, part, _ in parts]
    seen = []
    for (color, part, share), colors in zip(parts, around, strict=True):
        if colors == {one, two}:
            continue  # a part of the outermost object, seen through the hole of a ring
        within = [
            inside
            for (other, inner, inside), others in zip(parts, around, strict=True)
            if _surrounds(part, inner) and (other == color or others != {one, two})
        ]
        covered = np.minimum(sum(within, share), 1)
        targets = {kind: share if kind == "ring" else covered for kind in OBJECT_KINDS}
        seen.append(_fitted(targets, list(palette)[color], corner, size))
    return seen


def _unmixed(paint: np.ndarray, palette: np.ndarray) -> tuple[tuple[int, int], list[np.ndarray]]:
    """The two colours of which the paint is mixed best, and their shares, (height, width) each."""
    squares = palette @ palette.T
    painted = paint.any(2)
    along = palette @ paint[painted].T  # (colours, pixels)
    best: tuple[float, tuple[int, int], np.ndarray] = (np.inf, (0, 1), np.empty(0))
    for i, j in combinations(range(len(palette)), 2):
        (ii, ij), (_, jj) = squares[np.ix_((i, j), (i, j))]
        a, b = along[i], along[j]
        mixed = np.stack([a * jj - b * ij, b * ii - a * ij]) / max(ii * jj - ij * ij, 1.0)
        only = np.where(
            a * np.abs(a) * jj > b * np.abs(b) * ii, [a / ii, 0 * b], [0 * a, b / jj]
        )  # the better of the two
        shares = np.maximum(np.where(mixed.min(0) >= 0, mixed, only), 0)
        full = ((a - b + jj - ij) / (ii + jj - 2 * ij)).clip(0, 1)  # nearest on the line between the two
        shares = np.where(shares.sum(0) > 1, [full, 1 - full], shares)
        error = (shares[0] * (ii * shares[0] - 2 * a) + shares[1] * (jj * shares[1] + 2 * ij * shares[0] - 2 * b)).sum()
        if error < best[0]:
            best = (float(error), (i, j), shares)
    pictures = np.zeros((2, *painted.shape))
    pictures[:, painted] = best[2]
    return best[1], list(pictures)


def _surrounds(outer: np.ndarray, inner: np.ndarray) -> bool:
    """Whether the rectangle around a mask holds the one around another."""
    for axis in (0, 1):
        out, into = np.flatnonzero(outer.any(axis)), np.flatnonzero(inner.any(axis))
        if into[0] <= out[0] or into[-1] >= out[-1]:
            return False
    return True


def _fitted(targets: dict[str, np.ndarray], color: str, corner: tuple[int, int], size: int) -> Seen:
    """The kind with its place and size that explains its shares best."""
    tries = sorted(
        (_first(kind, target, color, corner, size) for kind, target in targets.items()), key=lambda t: -t.fit
    )
    best = max((_refined(each, targets[each.kind], corner, size) for each in tries[:SHARPEST]), key=lambda t: t.fit)
    return best if best.fit >= MIN_FIT else replace(best, kind=UNCLEAR)


def _first(kind: str, target: np.ndarray, color: str, corner: tuple[int, int], size: int) -> Seen:
    """A kind at the centre of gravity of the shares (which is that of every kind's circle), with their area."""
    mass = target.sum()
    y, x = ((target.sum(1 - k) * (np.arange(target.shape[k]) + corner[k] + 0.5)).sum() / mass for k in (0, 1))
    radius = (mass / AREAS[kind]) ** 0.5
    guess = Seen(kind=kind, color=color, x=float(x / size), y=float(y / size), radius=float(radius / size), fit=0.0)
    return _scored(guess, _drawn(guess, target, corner, size), target)


def _refined(guess: Seen, target: np.ndarray, corner: tuple[int, int], size: int) -> Seen:
    """The guess after some steps of Gauss-Newton, each taken only if it explains more."""
    for _ in range(STEPS):
        drawn, slopes, small = _drawn(guess, target, corner, size), [], 0.05 / size
        for name in ("x", "y", "radius"):
            moved = replace(guess, **{name: getattr(guess, name) + small})
            slopes.append((_drawn(moved, target, corner, size) - drawn).ravel() / small)
        step = np.linalg.lstsq(np.stack(slopes, 1), (target - drawn).ravel(), rcond=None)[0].clip(-0.1, 0.1)
        x, y, radius = (float(each) for each in step)
        new = replace(guess, x=guess.x + x, y=guess.y + y, radius=max(guess.radius + radius, 0.01))
        new = _scored(new, _drawn(new, target, corner, size), target)
        if new.fit <= guess.fit:
            break
        guess = new
    return guess


def _drawn(what: Object, target: np.ndarray, corner: tuple[int, int], size: int) -> np.ndarray:
    rows, columns = (slice(start, start + num) for start, num in zip(corner, target.shape, strict=True))
    return coverage(what, rows, columns, size, max(1, round(READ_SIZE / size)))


def _scored(what: Seen, drawn: np.ndarray, target: np.ndarray) -> Seen:
    return replace(what, fit=1 - float(((target - drawn) ** 2).sum() / (target**2).sum()))
