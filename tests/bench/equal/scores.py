"""What cascade/judge says of the pictures that each system painted, as one row a system and seed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cascade.judge.features import SAMPLES_A_DIMENSION
from cascade.judge.frechet import frechet_distance
from cascade.judge.look import DIMENSIONS, look
from cascade.judge.neighbours import neighbours
from cascade.judge.score import score
from cascade.judge.side import Side

LEAST = SAMPLES_A_DIMENSION * DIMENSIONS  # pictures a side
FLOOR_DRAWS = 8


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of one system's pictures. fd: at equal N, floor: what a perfect system would get there on average; swd: finest level;
    nearer: chance that a picture is nearer to a training picture than training pictures are to each other, 0.5 for new ones."""

    kid: float
    kid_error: float
    fd: float
    floor: float
    swd: float
    grain: float
    sharpness: float
    nearer: float


def load_side(path: Path) -> Side:
    """Pictures of a .npy, uint8 (n, 3, h, w)."""
    pictures = torch.from_numpy(np.load(path))
    return Side(name=str(path), pictures=pictures, names=tuple(map(str, range(len(pictures)))))


def judged(real: Side, train: Side, painted: Side, seed: int = 0) -> Row:
    """Judge `painted` against `real`; both have at least LEAST pictures."""
    assert real.pictures is not None
    assert train.pictures is not None
    assert painted.pictures is not None
    found = score(real, painted, seed=seed).scores
    num = min(len(real.names), len(painted.names))
    return Row(
        kid=found["KID"],
        kid_error=found["KID, standard error"],
        fd=found[f"FD at N = {num:,}"],
        floor=floor(look(real.pictures), num),
        swd=found["SWD by level, finest first"][0],
        grain=found["grain, generated"],
        sharpness=found["sharpness, generated"] / found["sharpness, real"],
        nearer=neighbours(look(train.pictures), look(painted.pictures)).share_nearer,
    )


def floor(features: Tensor, num: int) -> float:
    """Mean FD of two draws of `num` from the Gaussian with the features' moments.

    Halves of a few hundred pictures would be too few, and their N is not the N of the scores.
    """
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(features.T.cov() + 1e-9 * torch.eye(features.shape[1], dtype=features.dtype))

    def drawn() -> Tensor:
        noise = torch.randn(num, features.shape[1], generator=generator, dtype=features.dtype)
        return features.mean(dim=0) + noise @ root.T

    return sum(frechet_distance(drawn(), drawn()) for _ in range(FLOOR_DRAWS)) / FLOOR_DRAWS
