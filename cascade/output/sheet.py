"""A sheet: pictures and lines of words below each other on white, as one picture. Letters are those that Pillow brings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

INK, FAULT = (30, 30, 30), (190, 20, 20)
GAP = 8  # px between parts


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """A picture with its caption below; `is_fault` writes that in red."""

    picture: Image.Image
    caption: str
    is_fault: bool = False


def sheet(parts: Sequence[Image.Image]) -> Image.Image:
    """The parts below each other, each in the middle; transparent ones on white."""
    width, height = max(each.width for each in parts), sum(each.height + GAP for each in parts)
    whole = Image.new("RGB", (width, height), "white")
    top = 0
    for each in parts:
        place = ((width - each.width) // 2, top)
        whole.paste(each, place, each if each.mode == "RGBA" else None)
        top += each.height + GAP
    return whole


def line(text: str, width: int, size: int = 22) -> Image.Image:
    """One line of text in letters of `size` px, smaller ones where it would not fit into `width` px."""
    while size > 8 and letters(size).getlength(text) > width:
        size -= 1
    picture = Image.new("RGB", (width, 2 * size), "white")
    ImageDraw.Draw(picture).text((width / 2, size), text, INK, letters(size), anchor="mm")
    return picture


def table(cells: Sequence[Captioned], columns: int, side: int) -> Image.Image:
    """Cells of `side` px, row by row, each above its caption; pictures that are smaller are enlarged smoothly."""
    rows, high = -(-len(cells) // columns), side + 26
    whole = Image.new("RGB", (columns * (side + GAP), rows * high), "white")
    draw = ImageDraw.Draw(whole)
    for number, cell in enumerate(cells):
        x, y = number % columns * (side + GAP) + GAP // 2, number // columns * high
        whole.paste(cell.picture.resize((side, side), Image.Resampling.BICUBIC), (x, y))
        ink = FAULT if cell.is_fault else INK
        draw.text((x + side / 2, y + side + 12), cell.caption, ink, letters(15), anchor="mm")
    return whole


@cache
def letters(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font, in letters of `size` px."""
    return ImageFont.load_default(size)
