"""A small world of things drawn in three styles: scenes of data.world, filled, as outlines, and pale on another place."""

import json

import numpy as np
from PIL import Image

from data.world.scenes import draw, scene

STYLES = ("filled", "outline", "pale")
GROUPS = ("even", "odd")
BACKGROUND = 3  # levels within which a pixel is that of the scene's background


def drawing(thing, style, size=32):
    """RGBA picture of a thing."""
    what = scene(thing)
    colors = np.asarray(draw(what, size)).astype(float)
    ink = np.abs(colors - what.background).max(axis=2) > BACKGROUND
    if style == "outline":
        inner = ink.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                inner &= np.roll(ink, step, axis)
        ink, colors = ink & ~inner, colors * 0 + 40
    if style == "pale":
        colors = 0.55 * colors + 0.45 * np.array([90, 140, 255])
        ink, colors = np.roll(ink, 1, axis=1), np.roll(colors, 1, axis=1)
    rgba = np.dstack([colors, 255.0 * ink]).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(rgba)


def write_styles(folder, num=60, size=32, spoil=None):
    """A folder with metadata.jsonl; of every fifth thing one style is hidden. spoil: a function of each hidden picture."""
    rows = []
    for thing in range(num):
        for k, style in enumerate(STYLES):
            hidden = thing % 5 == 0 and thing // 5 % len(STYLES) == k
            name = f"{style}/{thing:04d}.png"
            (folder / style).mkdir(parents=True, exist_ok=True)
            image = drawing(thing, style, size)
            (spoil(image) if hidden and spoil else image).save(folder / name)
            rows.append(
                {
                    "file_name": name,
                    "text": f"{scene(thing).caption.text} number {thing}",
                    "style": style,
                    "thing": f"thing {thing}",
                    "group": GROUPS[thing % 2],
                    "split": "unseen pair" if hidden else "train",
                    "half": None if not hidden else "dev" if thing % 2 else "test",
                }
            )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def chosen(folder, source, rows):
    """A folder with the pictures of some rows of another folder; a row may say `picture`, another one's file."""
    folder.mkdir()
    for k, row in enumerate(rows):
        Image.open(source / row.pop("picture", row["file_name"])).save(folder / f"{k}.png")
        row["file_name"] = f"{k}.png"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
