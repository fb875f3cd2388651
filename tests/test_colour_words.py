"""The bench of colour words names colours as people do."""

import pytest
from PIL import Image

from data.shapes import COLORS
from tests.bench.colour_words import PAIRS, color_of

NAMED = COLORS | {"brown": (120, 70, 30)}


@pytest.mark.parametrize("name", PAIRS)
def test_a_picture_of_one_colour_has_its_name(name):
    picture = Image.new("RGBA", (8, 8), (255, 255, 255, 255))
    picture.paste((*NAMED[name], 255), (0, 0, 6, 3))
    assert color_of(picture) == name


@pytest.mark.parametrize("grey", [(0, 0, 0, 255), (140, 130, 135, 255), (255, 255, 255, 255), (221, 30, 40, 0)])
def test_greys_and_transparent_pixels_have_none(grey):
    assert color_of(Image.new("RGBA", (8, 8), grey)) == ""
