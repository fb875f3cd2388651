"""The scores of one set of pictures against another, as numbers by name and as a table."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.judge.colour import colour_drift
from cascade.judge.features import SAMPLES_A_DIMENSION, draw, halves
from cascade.judge.frechet import frechet_at_infinity, frechet_distance, frechet_floor, frechet_of_moments
from cascade.judge.grain import grain, sharpness
from cascade.judge.identity import judge_sha256
from cascade.judge.kernel import kernel_distance
from cascade.judge.look import DIMENSIONS, LOOK, look
from cascade.judge.manifold import expected_coverage, manifold
from cascade.judge.moments import Moments, moments
from cascade.judge.side import Side
from cascade.judge.wasserstein import sliced_wasserstein
from data.resize import RESIZE_VERSION

FLOOR_SIZE = 2 * SAMPLES_A_DIMENSION * DIMENSIONS  # real pictures whose halves are large enough for a floor


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores by name, with what they depend on: the ruler, N of both sides, the seed; left_out says why a measure is missing."""

    real: str
    generated: str
    num_real: int | None
    num_generated: int | None
    ruler: str
    ruler_sha256: str
    judge_sha256: str
    resize: str
    background: str
    seed: int
    scores: dict[str, Any]
    left_out: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """A table for people."""
        yield f"real       {self.real}: {_count(self.num_real)}"
        yield f"generated  {self.generated}: {_count(self.num_generated)}"
        yield f"ruler      {self.ruler} (sha256 {self.ruler_sha256[:12]}), seed {self.seed}"
        yield f"judge      sha256 {self.judge_sha256[:12]}, resize {self.resize}, background {self.background}"
        for name, value in self.scores.items():
            yield f"{name:<34} {_text(value)}"
        for name, why in self.left_out.items():
            yield f"{name:<34} left out: {why}"


def score(real: Side, generated: Side, *, seed: int = 0) -> Scores:
    """Compare two sides. Larger sides are cut to the smaller one's N by the seed where a measure needs equal N.

    Statistics files give the Fréchet distance alone. Raises ValueError where nothing can be compared.
    """
    scores: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    if real.pictures is None or generated.pictures is None:
        sides = [_moments(side) for side in (real, generated)]
        scores["FD"] = frechet_of_moments(*sides)
        left_out["all other measures"] = "a statistics file has no pictures"
        return _scores(real, generated, scores, left_out, seed)
    generator = torch.Generator().manual_seed(seed)
    _pictures(real.pictures, generated.pictures, scores, generator)
    _features(look(real.pictures), look(generated.pictures), scores, left_out, generator)
    return _scores(real, generated, scores, left_out, seed)


def _pictures(real: Tensor, generated: Tensor, scores: dict[str, Any], generator: torch.Generator) -> None:
    drift = colour_drift(real, generated)
    scores["colour drift, mean (levels)"], scores["colour drift, std (levels)"] = drift.mean, drift.std
    for name, measure in (("grain", grain), ("sharpness", sharpness)):
        scores[f"{name}, real"], scores[f"{name}, generated"] = (
            measure(each).nanmean().item() for each in (real, generated)
        )
    num = min(len(real), len(generated))
    first, second = (each[torch.randperm(len(each), generator=generator)[:num]] for each in (real, generated))
    scores["SWD by level, finest first"] = sliced_wasserstein(first, second, generator)
    if len(real) >= 4:
        parts = halves(real, generator)
        scores["SWD of halves of the real"] = sliced_wasserstein(*parts, generator=generator)
        scores["colour drift of halves, mean"] = colour_drift(*parts).mean


def _features(
    real: Tensor, generated: Tensor, scores: dict[str, Any], left_out: dict[str, str], generator: torch.Generator
) -> None:
    try:
        kernel = kernel_distance(real, generated)
    except ValueError as error:
        left_out["KID, FD, precision, recall"] = str(error)
        return
    scores["KID"], scores["KID, standard error"] = kernel.value, kernel.error
    num = min(len(real), len(generated))
    first, second = (draw(each, num, generator) for each in (real, generated))
    scores[f"FD at N = {num:,}"] = frechet_distance(first, second)
    if len(real) >= FLOOR_SIZE:
        floor_size = len(real) // 2
        scores[f"FD of halves of the real, N = {floor_size:,}"] = frechet_floor(real, generator)
    else:
        left_out["floor of FD"] = f"{len(real):,} real pictures; {FLOOR_SIZE:,} are needed"
    try:
        scores["FD at infinite N"] = frechet_at_infinity(first, second).value
    except ValueError as error:
        left_out["FD at infinite N"] = str(error)
    found = manifold(first, second)
    scores |= {"precision": found.precision, "recall": found.recall}
    scores |= {"density": found.density, "coverage": found.coverage}
    scores["coverage of two draws of one law"] = expected_coverage(num, num)
    if len(real) >= FLOOR_SIZE:
        floor = manifold(*halves(real, generator))
        scores |= {"precision of halves": floor.precision, "recall of halves": floor.recall}
    else:
        left_out["precision and recall of halves"] = f"{len(real):,} real pictures; {FLOOR_SIZE:,} are needed"


def _moments(side: Side) -> Moments:
    if side.moments is not None:
        return side.moments
    assert side.pictures is not None
    return moments(look(side.pictures), LOOK)


def _scores(real: Side, generated: Side, scores: dict[str, Any], left_out: dict[str, str], seed: int) -> Scores:
    nums = [side.moments.num if side.moments else len(side.names) for side in (real, generated)]
    return Scores(
        real=real.name, generated=generated.name, num_real=nums[0], num_generated=nums[1], ruler=LOOK.name,
        ruler_sha256=LOOK.sha256, judge_sha256=judge_sha256(), resize=RESIZE_VERSION,
        background=" and ".join(dict.fromkeys((real.background, generated.background))), seed=seed, scores=scores,
        left_out=left_out,
    )  # fmt: skip


def _count(num: int | None) -> str:
    return "N unknown" if num is None else f"{num:,} pictures"


def _text(value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return "  ".join(f"{each:.4g}" for each in values)
