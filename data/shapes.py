"""Procedural pictures with a known answer: one coloured shape each, with caption and label, endless, at any size.

Picture k is a function of (seed, k). Its content can be computed from the pixels again, so tests can check whether a
model drew what its caption says.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data.decode import Color
from data.files import make_folder

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLORS: dict[str, Color] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 220, 40),
    "green": (40, 170, 70),
    "blue": (40, 90, 220),
    "purple": (140, 60, 190),
    "pink": (250, 130, 190),
    "black": (20, 20, 20),
}
FINER = 4  # supersampling factor: drawn this much larger, then averaged


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The content of a picture. Centre and radius are fractions of its side; the background is a light grey level."""

    kind: str
    color: str
    x: float
    y: float
    radius: float
    background: int

    @property
    def caption(self) -> str:
        """Colour and kind in words: "a red circle", say."""
        return f"{'an' if self.color[0] in 'aeiou' else 'a'} {self.color} {self.kind}"

    @property
    def label(self) -> int:
        """Class number: the position of the kind in SHAPES."""
        return SHAPES.index(self.kind)


def shape(index: int, seed: int = 0) -> Shape:
    """The content of picture `index`; kinds and colours are uniform and independent."""
    random_words = np.random.PCG64(np.random.SeedSequence((seed, index))).random_raw(6)
    u = [float(word) / 2.0**64 for word in random_words]
    return Shape(
        kind=SHAPES[int(u[0] * len(SHAPES))],
        color=list(COLORS)[int(u[1] * len(COLORS))],
        x=0.38 + 0.24 * u[2],
        y=0.38 + 0.24 * u[3],
        radius=0.2 + 0.15 * u[4],
        background=int(225 + 31 * u[5]),
    )


def draw(what: Shape, size: int) -> Image.Image:
    """Draw a shape as a picture of size x size px, with smooth edges."""
    side = size * FINER
    image = Image.new("RGB", (side, side), (what.background,) * 3)
    _paint(ImageDraw.Draw(image), what, side)
    return image.reduce(FINER)


def write_folder(folder: str | Path, num: int, size: int, seed: int = 0) -> Path:
    """Write pictures 0 to num - 1 and their metadata.jsonl, a source for data.pack."""
    folder = Path(folder)
    make_folder(folder)
    rows = []
    for index in range(num):
        drawing = shape(index, seed)
        name = f"{index:06d}.png"
        draw(drawing, size).save(folder / name)
        rows.append({"file_name": name, "text": drawing.caption, "label": drawing.kind, "color": drawing.color})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _paint(canvas: ImageDraw.ImageDraw, what: Shape, side: int) -> None:
    x, y, r = what.x * side, what.y * side, what.radius * side
    color = COLORS[what.color]
    if what.kind == "circle":
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif what.kind == "ring":
        canvas.ellipse((x - r, y - r, x + r, y + r), outline=color, width=max(1, round(r * 0.4)))
    elif what.kind == "cross":
        w = r * 0.35
        canvas.rectangle((x - r, y - w, x + r, y + w), fill=color)
        canvas.rectangle((x - w, y - r, x + w, y + r), fill=color)
    else:
        corners, rotation = {"square": (4, 45), "triangle": (3, 0), "diamond": (4, 0)}[what.kind]
        angles = [math.radians(rotation + 360 * k / corners) for k in range(corners)]
        canvas.polygon([(x + r * math.sin(a), y - r * math.cos(a)) for a in angles], fill=color)
