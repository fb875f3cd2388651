"""The scores of one set of pictures against another, as numbers by name and as a table."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.judge.colour import colour_drift
from cascade.judge.features import check_enough, draw, halves
from cascade.judge.frechet import floor_size, frechet_of_moments, frechet_scores
from cascade.judge.grain import grain, sharpness
from cascade.judge.identity import judge_sha256
from cascade.judge.kernel import kernel_distance
from cascade.judge.local import Found
from cascade.judge.manifold import expected_coverage, manifold
from cascade.judge.measuring import BY_LOOK, Measuring
from cascade.judge.moments import Moments, moments
from cascade.judge.side import Side
from cascade.judge.wasserstein import sliced_wasserstein
from data.resize import RESIZE_VERSION


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores by name, with what they depend on: the ruler, N of both sides, the seed; left_out says why a measure is missing.

    weights: the SHA-256 of each published network that measured, by its name.
    """

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
    weights: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """A table for people."""
        yield f"real       {self.real}: {_count(self.num_real)}"
        yield f"generated  {self.generated}: {_count(self.num_generated)}"
        yield f"ruler      {self.ruler} (sha256 {self.ruler_sha256[:12]}), seed {self.seed}"
        yield f"judge      sha256 {self.judge_sha256[:12]}, resize {self.resize}, background {self.background}"
        for name, sha256 in self.weights.items():
            yield f"{name:<10} sha256 {sha256[:12]}"
        for name, value in self.scores.items():
            yield f"{name:<34} {_text(value)}"
        for name, why in self.left_out.items():
            yield f"{name:<34} left out: {why}"


def score(real: Side, generated: Side, *, seed: int = 0, by: Measuring = BY_LOOK, found: Found | None = None) -> Scores:
    """Compare two sides. Larger sides are cut to the smaller one's N by the seed where a measure needs equal N.

    by: the ruler of KID, FD, precision and the like; found: what published networks measured of the same sides. Statistics files
    give the Fréchet distance alone. Raises ValueError where nothing can be compared.
    """
    scores: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    if real.pictures is None or generated.pictures is None:
        scores["FD"] = _of_statistics(real, generated, by)
        left_out["all other measures"] = "a statistics file has no pictures"
    else:
        generator = torch.Generator().manual_seed(seed)
        _pictures(real.pictures, generated.pictures, scores, generator)
        _features(by.features(real.pictures), by.features(generated.pictures), scores, left_out, generator)
    if found:
        scores, left_out = scores | found.scores, left_out | found.left_out
    nums = [side.moments.num if side.moments else len(side.names) for side in (real, generated)]
    return Scores(
        real=real.name, generated=generated.name, num_real=nums[0], num_generated=nums[1], ruler=by.ruler.name,
        ruler_sha256=by.ruler.sha256, judge_sha256=judge_sha256(), resize=RESIZE_VERSION,
        background=" and ".join(dict.fromkeys((real.background, generated.background))), seed=seed, scores=scores,
        left_out=left_out, weights=found.weights if found else {},
    )  # fmt: skip


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
    distances, missing = frechet_scores("FD", real, (first, second), generator)
    scores |= distances
    left_out |= missing
    found = manifold(first, second)
    scores |= {"precision": found.precision, "recall": found.recall}
    scores |= {"density": found.density, "coverage": found.coverage}
    scores["coverage of two draws of one law"] = expected_coverage(num, num)
    if len(real) >= (needed := floor_size(real.shape[1])):
        floor = manifold(*halves(real, generator))
        scores |= {"precision of halves": floor.precision, "recall of halves": floor.recall}
    else:
        left_out["precision and recall of halves"] = f"{len(real):,} real pictures; {needed:,} are needed"


def _of_statistics(real: Side, generated: Side, by: Measuring) -> float:
    for name, side in (("real", real), ("generated", generated)):
        if side.moments is None:
            check_enough(len(side.names), by.dimensions, name)  # before hours of measuring
    return frechet_of_moments(*(statistics(side, by) for side in (real, generated)))


def statistics(side: Side, by: Measuring) -> Moments:
    """The moments of a side: those of its file, or of its pictures by a ruler."""
    if side.moments is not None:
        return side.moments
    assert side.pictures is not None
    return moments(by.features(side.pictures), by.ruler)


def _count(num: int | None) -> str:
    return "N unknown" if num is None else f"{num:,} pictures"


def _text(value: Any) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return "  ".join(f"{each:.4g}" for each in values)
