"""Rulers by which `score` compares sets of pictures: features (n, d) of pictures, and which numbers they are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.judge.background import check_background
from cascade.judge.inception import DIMENSIONS as INCEPTION_DIMENSIONS
from cascade.judge.inception import Inception
from cascade.judge.look import DIMENSIONS, LOOK, look
from cascade.judge.moments import Ruler
from cascade.judge.pictures import BATCH
from cascade.judge.ruler import ThingRuler
from data.batch import to_float, to_uint8
from data.resize import downsample


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """A ruler, its dimensions, and what measures RGB pictures uint8 (n, 3, h, w): (n, dimensions) float64."""

    ruler: Ruler
    dimensions: int
    features: Callable[[Tensor], Tensor]


BY_LOOK = Measuring(ruler=LOOK, dimensions=DIMENSIONS, features=look)


def by_things(ruler: ThingRuler) -> Measuring:
    """By a ruler of things and styles; larger square pictures are shrunk to its size by THE downsample."""

    def features(pictures: Tensor) -> Tensor:
        height, width = pictures.shape[2:]
        if height != width or height < ruler.size:
            raise ValueError(f"pictures are {width} x {height} px; the ruler needs squares of at least {ruler.size} px")
        check_background(pictures, ruler.background, "pictures")
        small = [to_uint8(downsample(to_float(part), (ruler.size, ruler.size))) for part in pictures.split(BATCH)]
        return ruler.embed(torch.cat(small)).features

    dimensions = ruler.embedded.features.shape[1]
    return Measuring(ruler=ruler.identity, dimensions=dimensions, features=features)


def by_inception(inception: Inception) -> Measuring:
    """By Inception's features, for statistics files."""
    return Measuring(
        ruler=inception.ruler,
        dimensions=INCEPTION_DIMENSIONS,
        features=lambda pictures: inception.see(pictures).features,
    )
