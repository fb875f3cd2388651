"""The kinds of objects and their geometry: how much of each pixel an object covers.

Coordinates and radii are fractions of the picture's side, y points down, and the radius is that of the circumscribed
circle. The six kinds of data.shapes keep their geometry; the star is new.
"""

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np

from data.shapes import SHAPES

OBJECT_KINDS = (*SHAPES, "star")
CONTAINERS = ("circle", "square", "diamond", "ring")  # large and convex enough for an object inside
HOLE = 0.6  # inner radius of a ring, in radii
ARM = 0.35  # half the width of a cross's arm, in radii
NOTCH = 0.4  # radius of a star's inner corners, in radii
CORNERS = {
    "square": (4, 45),
    "triangle": (3, 0),
    "diamond": (4, 0),
}  # number; the first, in degrees clockwise from the top
AREAS = {
    "circle": math.pi,
    "square": 2.0,
    "triangle": 3 * math.sqrt(3) / 4,
    "diamond": 2.0,
    "cross": 8 * ARM - 4 * ARM**2,
    "ring": math.pi * (1 - HOLE**2),
    "star": 5 * NOTCH * math.sin(math.pi / 5),
}  # in squared radii


@dataclass(frozen=True, kw_only=True)
class Object:
    """One object of a scene. Centre and radius are fractions of the picture's side."""

    kind: str
    color: str
    x: float
    y: float
    radius: float


def distance(kind: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance of points to the outline, negative inside; (x, y) relative to the centre. Exact along straight edges."""
    if kind == "circle":
        return np.hypot(x, y) - radius
    if kind == "ring":
        away = np.hypot(x, y)
        return np.maximum(away - radius, HOLE * radius - away)
    if kind == "cross":
        x, y, arm = np.abs(x), np.abs(y), ARM * radius
        return np.minimum(np.maximum(x - radius, y - arm), np.maximum(x - arm, y - radius))
    if kind == "star":
        sector = 2 * math.pi / 5
        angle = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)  # from the nearest tip
        away = np.hypot(x, y)
        along, across = NOTCH * math.cos(sector / 2) - 1, NOTCH * math.sin(sector / 2)  # the edge from tip to notch
        length = math.hypot(along, across)
        return ((away * np.cos(angle) - radius) * across - away * np.sin(angle) * along) / length
    corners, turn = CORNERS[kind]
    middles = [math.radians(turn + 360 * (k + 0.5) / corners) for k in range(corners)]
    sides = (x * math.sin(a) - y * math.cos(a) for a in middles)
    return reduce(np.maximum, sides) - radius * math.cos(math.pi / corners)


def coverage(what: Object, rows: slice, columns: slice, size: int, finer: int) -> np.ndarray:
    """Share of each pixel that the object covers: (rows, columns) of a picture of `size` px, `finer`² samples a pixel."""
    y = (np.arange(rows.start * finer, rows.stop * finer)[:, None] + 0.5) / finer - what.y * size
    x = (np.arange(columns.start * finer, columns.stop * finer) + 0.5) / finer - what.x * size
    inside = np.clip(0.5 - distance(what.kind, x, y, what.radius * size) * finer, 0, 1)
    return inside if finer == 1 else inside.reshape(len(y) // finer, finer, len(x) // finer, finer).mean((1, 3))
