"""Monitors of updates: non-finite numbers, the loss by noise level."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from data.batch import Batch
from data.errors import RunError

from ..config import NoiseConfig
from .engine import Engine, Update

Z = 0.6744897501960817  # the quartiles of a normal distribution are mean +- Z std


class Guard:
    """Tolerates up to `most` skipped (non-finite) updates in a row; one more ends the run, on every rank."""

    def __init__(self, stage: str, most: int):
        self.stage, self.most, self.in_a_row = stage, most, 0

    def check(self, update: Update, batch: Batch, nimg: int, latest: Callable[[], Path | None]) -> None:
        """Count a skipped update; RunError after too many in a row. latest: the newest whole checkpoint, called only then."""
        self.in_a_row = 0 if update.applied else self.in_a_row + 1
        if self.in_a_row <= self.most:
            return
        good = latest()
        raise RunError(
            f"stage {self.stage}: loss {update.loss}, gradient norm {update.grad_norm} at image {nimg:,}, the "
            f"{self.in_a_row}. update in a row that was skipped ({suspects(update, batch)}); weights are as they were, "
            f"the last good checkpoint is {good.name if good else 'none'}"
        )


def suspects(update: Update, batch: Batch) -> str:
    """Keys and sigmas of this rank's images with a non-finite loss, or of its first images if there are none."""
    losses = torch.cat([part.per_image for part in update.losses]).tolist()
    sigmas = torch.cat([part.sigma for part in update.losses]).tolist()
    rows = [k for k, loss in enumerate(losses) if not math.isfinite(loss)] or range(len(batch))
    told = [f"{batch.keys[k]} at sigma {sigmas[k]:.3g}" for k in rows]
    return f"samples {', '.join(told[:8])}{', ...' if len(told) > 8 else ''}"


class SigmaQuartiles:
    """Mean loss by quartile of the training levels, lowest sigma first, over all ranks: shows where a network learns or
    diverges."""

    def __init__(self, noise: NoiseConfig):
        self.edges = torch.tensor([math.exp(noise.mean + z * noise.std) for z in (-Z, 0.0, Z)])
        self.sums = torch.zeros(2, 4, dtype=torch.float64)

    def add(self, update: Update) -> None:
        """Add this rank's losses of an update, if it was applied."""
        if not update.applied:
            return
        for part in update.losses:
            number = torch.bucketize(part.sigma.cpu(), self.edges.to(part.sigma.dtype))
            both = torch.stack([part.per_image.double().cpu(), torch.ones(len(number), dtype=torch.float64)])
            self.sums.index_add_(1, number, both)

    def take(self, engine: Engine) -> dict[str, float]:
        """loss_q1 to loss_q4 since the last call; collective."""
        sums: Tensor = engine.total(self.sums.clone()).cpu()
        self.sums.zero_()
        return {f"loss_q{k + 1}": (sums[0, k] / sums[1, k]).item() for k in range(4) if sums[1, k]}


def lost_a_rank(told: str) -> bool:
    """Whether an error message is one of gloo's or NCCL's about a rank that died or hangs."""
    signs = ("imed out", "imeout", "onnection closed", "onnection reset", "onnection refused", "roken pipe", "NCCL")
    return any(sign in told for sign in signs)
