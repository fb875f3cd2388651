"""What a drawing is and how it is drawn, as numbers in closed form: nothing is trained, nothing downloaded.

The ink of a picture is what differs from its background. `thing` holds what stays when a drawing moves or grows: its ink,
cropped to the bounding box and centred in a square, as pixels, as directions of edges (Dalal and Triggs 2005) and as
colours. `finish` holds what tells a pencil from a brush: colours, how steep the steps between neighbouring pixels are at
three scales, shades, the colour of the rim, where on the canvas the ink lies. Pictures are uint8 (n, 3, size, size).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.judge.pictures import BATCH, check_pictures
from data.batch import to_float
from data.decode import Color
from data.resize import downsample, upsample

DESCRIPTION = "thing-and-finish-1"  # changes with every change of the numbers below
INK = 24 / 127.5  # by how much a channel of ink differs from the background
SIDE = 32  # px, of the cropped drawing
PIXELS = 16  # px, at which the drawing's pixels are taken
CELLS = 8  # a side, in which directions of edges are counted
DIRECTIONS = 8
LEVELS = 8  # of each colour channel
SHADES = 12
SCALES = (1, 2, 4)
STEPS = (0.004, 0.012, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)  # between neighbours, of pictures in [-1, 1]


@dataclass(frozen=True, kw_only=True)
class Description:
    """`thing` (n, 1792) and `finish` (n, 571), float32; a picture's rows do not depend on the others."""

    thing: Tensor
    finish: Tensor


def describe(pictures: Tensor, background: Color) -> Description:
    """Describe square pictures uint8 (n, 3, size, size) that stand on `background`."""
    check_pictures(pictures, "describe")
    if pictures.shape[1] != 3 or pictures.shape[2] != pictures.shape[3]:
        raise ValueError(f"describe: pictures are {tuple(pictures.shape[1:])}; square RGB pictures are needed")
    empty = torch.tensor(background).float() / 127.5 - 1
    parts = [_described(to_float(part), empty.view(3, 1, 1)) for part in pictures.split(BATCH)]
    return Description(thing=torch.cat([part.thing for part in parts]), finish=torch.cat([p.finish for p in parts]))


def _described(images: Tensor, empty: Tensor) -> Description:
    ink = (images - empty).abs().amax(dim=1) > INK
    ink[~ink.flatten(1).any(dim=1)] = True  # an empty picture is its own drawing
    boxes = [_box(each) for each in ink]
    crops = torch.stack([_cropped(image, empty, box) for image, box in zip(images, boxes, strict=True)])
    colors = _colors(crops)
    pixels = downsample(crops, (PIXELS, PIXELS)).flatten(1)
    thing = torch.cat([pixels, _edges(crops.mean(dim=1)), colors], dim=1)
    finish = torch.cat([colors, *_steps(images, ink), *_shades(images, ink), _rim(images, ink), _place(ink, boxes)], 1)
    return Description(thing=thing, finish=finish)


Box = tuple[int, int, int, int]  # top, bottom, left, right


def _box(ink: Tensor) -> Box:
    rows, columns = (ink.any(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _cropped(image: Tensor, empty: Tensor, box: Box) -> Tensor:
    """The ink in the middle of a square, SIDE x SIDE px, by THE resize."""
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    side = max(height, width)
    square = empty.expand(3, side, side).clone()
    y, x = (side - height) // 2, (side - width) // 2
    square[:, y : y + height, x : x + width] = image[:, top:bottom, left:right]
    small = min(side, SIDE)
    return upsample(downsample(square[None], (small, small)), (SIDE, SIDE))[0].clamp(-1, 1)


def _edges(luma: Tensor) -> Tensor:
    """Square roots of the strength of edges by cell and direction, (b, CELLS² DIRECTIONS); an edge has no sign."""
    padded = F.pad(luma[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx, dy = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2], padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    strength = (dx.square() + dy.square()).sqrt()
    angle = torch.atan2(dy, dx) % math.pi / math.pi * DIRECTIONS
    first = angle.floor()
    share = angle - first
    counts = torch.zeros(len(luma), DIRECTIONS, *luma.shape[1:])
    for bins, part in ((first, 1 - share), (first + 1, share)):
        counts.scatter_add_(1, (bins.long() % DIRECTIONS)[:, None], (strength * part)[:, None])
    return F.adaptive_avg_pool2d(counts, CELLS).sqrt().flatten(1)


def _colors(images: Tensor) -> Tensor:
    """Square roots of a histogram with LEVELS³ bins, each pixel shared among the eight that are nearest."""
    place = ((images + 1) / 2 * (LEVELS - 1)).flatten(2)
    low = place.floor().clamp(0, LEVELS - 2)
    above = place - low
    counts = torch.zeros(len(images), LEVELS**3)
    for corner in range(8):
        ups = [corner >> channel & 1 for channel in range(3)]
        weight = torch.stack([above[:, c] if up else 1 - above[:, c] for c, up in enumerate(ups)]).prod(dim=0)
        bins = sum((low[:, c].long() + up) * LEVELS**c for c, up in enumerate(ups))
        counts.scatter_add_(1, bins, weight)  # type: ignore[arg-type]
    return (counts / place.shape[2]).sqrt()


def _histogram(bins: Tensor, num: int, weight: Tensor) -> Tensor:
    """Square roots of the weighted shares of bins (b, h, w) in 0 .. num - 1: (b, num)."""
    weight = weight.float().flatten(1)
    counts = torch.zeros(len(bins), num).scatter_add_(1, bins.flatten(1), weight)
    return (counts / weight.sum(dim=1, keepdim=True).clamp(min=1)).sqrt()


def _steps(images: Tensor, ink: Tensor) -> Iterator[Tensor]:
    """How often neighbours in the ink differ by how much, a scale at a time."""
    for scale in SCALES:
        small, inside = F.avg_pool2d(images, scale), F.avg_pool2d(ink[:, None].float(), scale)[:, 0] > 0.99
        right = small.diff(dim=3).abs().amax(dim=1)[:, :-1]
        down = small.diff(dim=2).abs().amax(dim=1)[:, :, :-1]
        bins = torch.bucketize(torch.maximum(right, down), torch.tensor(STEPS))
        yield _histogram(bins, len(STEPS) + 1, inside[:, :-1, :-1])


def _shades(images: Tensor, ink: Tensor) -> Iterator[Tensor]:
    """How bright and how saturated the ink is."""
    most, least = images.amax(dim=1), images.amin(dim=1)
    for level in ((most + 1) / 2, (most - least) / 2):
        yield _histogram((level * SHADES).long().clamp(0, SHADES - 1), SHADES, ink)


def _rim(images: Tensor, ink: Tensor) -> Tensor:
    """Mean colour of the outermost pixels of the ink, (b, 3)."""
    inner = -F.max_pool2d(-ink[:, None].float(), 3, 1, 1)
    rim = ink[:, None].float() - inner
    return (images * rim).sum(dim=(2, 3)) / rim.sum(dim=(2, 3)).clamp(min=1)


def _place(ink: Tensor, boxes: list[Box]) -> Tensor:
    """The four sides of the bounding box and the share of ink, (b, 5)."""
    sides = torch.tensor(boxes).float() / ink.shape[1]
    return torch.cat([sides, ink.float().mean(dim=(1, 2))[:, None]], dim=1)
