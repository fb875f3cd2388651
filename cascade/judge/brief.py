"""A few scores, with errors, of a stage's pictures against the true ones of the same conditions: cheap enough for curves."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.judge.each import mean_error
from cascade.judge.grain import grain, sharpness
from cascade.judge.kernel import kernel_distance
from cascade.judge.look import look
from cascade.judge.matching import matches
from cascade.judge.painted import paint
from cascade.judge.wasserstein import finest_estimate
from cascade.link import Link
from data.alpha import on_background
from data.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Brief:
    """Scores of `num` pictures, (value, standard error over pictures), None where they cannot be measured.

    match: see `matches`. sharpness: over that of the true pictures. grain: std of the high-pass in flat regions. swd: of the finest
    Laplacian level against the true pictures. kid: by `look`.
    """

    num: int
    match: tuple[float, float]
    sharpness: tuple[float, float]
    grain: tuple[float, float]
    swd: tuple[float, float]
    kid: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Point:
    """A stage's scores with one setting changed."""

    stage: str
    setting: str
    value: float
    scores: Brief

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def brief(made: Tensor, truth: Tensor, seed: int = 0) -> Brief:
    """Score RGB pictures uint8 (n, 3, h, w) against the true ones, row by row of one condition, n >= 3."""
    real, generated = look(truth), look(made)
    finest = finest_estimate(truth, made, torch.Generator().manual_seed(seed))
    try:
        kernel = kernel_distance(real, generated)
    except ValueError:
        kernel = None
    return Brief(
        num=len(made),
        match=mean_error(matches(real, generated)),
        sharpness=mean_error(sharpness(made) / sharpness(truth).mean()),
        grain=mean_error(grain(made)),
        swd=(finest.value, finest.error),
        kid=(kernel.value, kernel.error) if kernel else None,
    )


def curve(
    link: Link, batches: Sequence[Batch], below: Sequence[Tensor] | None, truth: Tensor, *,
    setting: str, values: Sequence[float], seed: int = 0,
) -> Iterator[Point]:  # fmt: skip
    """A point for each value of a sampling setting of one stage. below: the low_res of each batch, if the stage takes one."""
    for value in values:
        given: Sequence[Tensor | None] = below or [None] * len(batches)
        pairs = zip(batches, given, strict=True)
        made = [paint(link, batch, each, seed=seed, **{setting: value}) for batch, each in pairs]
        scores = brief(on_background(torch.cat(made)), on_background(truth), seed)
        yield Point(stage=link.name, setting=setting, value=value, scores=scores)
