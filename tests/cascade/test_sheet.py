"""Sheets: where pictures and words stand, and which words are red."""

import numpy as np
import pytest
from PIL import Image

from cascade.output.sheet import FAULT, GAP, INK, Captioned, letters, line, sheet, table


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {color for _, color in picture.getcolors(1 << 20)}


def test_parts_stand_below_each_other_in_the_middle_and_transparency_is_white():
    parts = [Image.new("RGB", (30, 10), "blue"), Image.new("RGBA", (10, 20), (0, 0, 0, 0))]
    whole = np.asarray(sheet(parts))
    assert whole.shape == (10 + 20 + 2 * GAP, 30, 3)
    assert (whole[:10] == (0, 0, 255)).all()
    assert (whole[10:] == 255).all()


def test_cells_stand_row_by_row_each_above_its_caption():
    paints = ("red", "green", "blue")
    made = table([Captioned(picture=Image.new("RGB", (8, 8), each), caption=each) for each in paints], 2, 64)
    high = made.height // 2
    centres = [made.getpixel((GAP // 2 + 32 + k % 2 * (64 + GAP), 32 + k // 2 * high)) for k in range(3)]
    assert centres == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    assert INK in colours(made.crop((0, 64, 64, high)))
    assert colours(made.crop((64 + GAP, high, made.width, made.height))) == {(255, 255, 255)}


@pytest.mark.parametrize(("is_fault", "ink"), [(False, INK), (True, FAULT)])
def test_a_fault_is_written_in_red(is_fault, ink):
    seen = colours(table([Captioned(picture=Image.new("RGB", (8, 8)), caption="HHH", is_fault=is_fault)], 1, 64))
    assert {INK, FAULT} & seen == {ink}


@pytest.mark.parametrize("text", ["short", "a line that is much too long for so few pixels, " * 3])
def test_a_line_fits_into_its_width(text):
    """Ink touches neither side; a short line has the size that is asked for."""
    made = np.asarray(line(text, 700, 22))
    assert made.shape[1] == 700
    assert (made[:, [0, -1]] == 255).all()
    assert made.shape[0] == 44 if letters(22).getlength(text) < 700 else made.shape[0] < 44
