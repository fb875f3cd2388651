"""Numbers of single generated pictures beside a set of true ones, to filter a set of pictures by: a line of CSV each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.judge.each import small
from cascade.judge.grain import grain, sharpness
from cascade.judge.local import Found
from cascade.judge.neighbours import neighbours
from cascade.judge.side import Side


@dataclass(frozen=True, kw_only=True)
class Single:
    """A picture's numbers; nan and "" for what is not known. neighbour, distance: name of the nearest true picture and the RMS
    difference to it in levels of 255, at 16 px; caption_cosine, caption_nearest: see caption_match.py; lpips: to its true picture.
    """

    name: str
    caption: str
    sharpness: float
    grain: float
    neighbour: str
    distance: float
    caption_cosine: float
    caption_nearest: float
    lpips: float


def singles(real: Side, generated: Side, found: Found) -> list[Single]:
    """The numbers of each generated picture. Raises ValueError for statistics in place of generated pictures."""
    if generated.pictures is None:
        raise ValueError(f"{generated.name} is a statistics file and has no pictures; name the folder of the pictures")
    num = len(generated.names)
    names, distances = [""] * num, torch.full((num,), float("nan"))
    if real.pictures is not None and len(real.pictures) > 1:
        near = neighbours(small(real.pictures), small(generated.pictures))
        names, distances = [real.names[k] for k in near.index.tolist()], near.distance
    columns = (
        sharpness(generated.pictures),
        grain(generated.pictures),
        distances,
        found.cosine,
        found.nearest,
        found.lpips,
    )
    numbers = zip(*(_known(each, num).tolist() for each in columns), strict=True)
    captions = generated.captions or [""] * num
    return [
        Single(
            name=name, caption=caption, sharpness=sharp, grain=grainy, neighbour=neighbour, distance=distance,
            caption_cosine=cosine, caption_nearest=nearest, lpips=lpips,
        )
        for name, caption, neighbour, (sharp, grainy, distance, cosine, nearest, lpips)
        in zip(generated.names, captions, names, numbers, strict=True)
    ]  # fmt: skip


def _known(values: Tensor | None, num: int) -> Tensor:
    return torch.full((num,), float("nan")) if values is None else values
