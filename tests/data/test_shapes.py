"""What a shape picture claims is what can be measured in it."""

import json

import numpy as np
import pytest

from data.shapes import COLORS, SHAPES, Shape, draw, shape, write_folder

# area of each kind in units of radius ** 2, by elementary geometry
AREAS = {
    "circle": np.pi,
    "square": 2.0,
    "diamond": 2.0,
    "triangle": 3 * np.sqrt(3) / 4,
    "cross": 2 * (2 * 0.7) - 0.7**2,
    "ring": np.pi * (1 - 0.6**2),
}


def painted(what: Shape, size: int = 128) -> np.ndarray:
    """Which pixels are nearer to the shape's colour than to the background."""
    pixels = np.asarray(draw(what, size)).astype(float)
    color = np.abs(pixels - COLORS[what.color]).sum(-1)
    return color < np.abs(pixels - what.background).sum(-1)


@pytest.mark.parametrize("index", range(40))
def test_colour_place_and_area_are_as_said(index):
    what = shape(index, seed=5)
    mask = painted(what)
    area = mask.mean()
    assert area == pytest.approx(AREAS[what.kind] * what.radius**2, rel=0.08)
    rows, columns = np.nonzero(mask)
    assert columns.mean() / 128 == pytest.approx(what.x, abs=0.01)
    if what.kind != "triangle":
        assert rows.mean() / 128 == pytest.approx(what.y, abs=0.01)
    assert rows.min() > 0
    assert rows.max() < 127


def test_kinds_and_colours_are_balanced_and_independent():
    counts = np.zeros((len(SHAPES), len(COLORS)))
    for index in range(4800):
        what = shape(index)
        counts[what.label, list(COLORS).index(what.color)] += 1
    expected = 4800 / counts.size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 80  # 47 degrees of freedom: beyond 80 once in 500 seeds, and this seed is fixed


def test_pictures_are_functions_of_seed_and_index():
    assert shape(10**12, 3) == shape(10**12, 3)
    assert len({shape(index, seed) for index in range(20) for seed in range(3)}) == 60
    assert draw(shape(4), 33).tobytes() == draw(shape(4), 33).tobytes()


def test_captions_are_english():
    red = Shape(kind="circle", color="red", x=0.5, y=0.5, radius=0.3, background=240)
    assert (red.caption, red.label) == ("a red circle", 0)
    assert Shape(kind="ring", color="orange", x=0.5, y=0.5, radius=0.3, background=240).caption == "an orange ring"


def test_folder(tmp_path):
    folder = write_folder(tmp_path / "s", 7, 12, seed=2)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [shape(index, 2).caption for index in range(7)]
    assert len(list(folder.glob("*.png"))) == 7
