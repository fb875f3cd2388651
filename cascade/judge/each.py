"""Numbers of single pictures: does it show its condition, is it sharp, is it grainy, which training picture is nearest?

Two rulers are used, whose numbers need no network: `look` for the match, pictures of 16 px for neighbours, since a copy is near in
pixels. Rows are written as CSV, to filter a set of pictures by.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from torch import Tensor

from data.batch import to_float
from data.resize import downsample

SIDE = 16  # px, at which pictures are compared with those of training


@dataclass(frozen=True, kw_only=True)
class Each:
    """A picture's numbers. side: painted or true. match: see matching.py; sharpness, grain: see grain.py (nan: no flat pixels);
    neighbour, distance: key of the nearest training picture and the RMS difference to it in levels of 255, at 16 px.
    """

    side: str
    key: str
    caption: str
    group: str
    match: float | None
    sharpness: float
    grain: float
    neighbour: str
    distance: float


def as_csv(rows: Sequence[Any]) -> str:
    """Rows of one dataclass, at least one, under a header; a number that is not known is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([each.name for each in fields(rows[0])])
    for row in rows:
        table.writerow([_cell(value) for value in astuple(row)])
    return text.getvalue()


def _cell(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if value == value else ""
    return "" if value is None else str(value)


def small(pictures: Tensor) -> Tensor:
    """Features (n, d) of uint8 RGB pictures: their 16 px version; the distance of two rows is the RMS difference in levels."""
    side = min(SIDE, *pictures.shape[2:])
    pixels = downsample(to_float(pictures), (side, side)).flatten(1).double()
    return pixels * 127.5 / pixels.shape[1] ** 0.5


def mean_error(values: Tensor) -> tuple[float, float]:
    """Mean of a number a picture and its standard error, both without nan; the error of a single one is nan."""
    known = values[~values.isnan()].double()
    if not len(known):
        return float("nan"), float("nan")
    return known.mean().item(), (known.std() / len(known) ** 0.5).item() if len(known) > 1 else float("nan")
