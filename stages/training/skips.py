"""Updates that are skipped because a loss or a gradient was not finite, and when they end the run."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from data.batch import Batch
from data.errors import RunError

from .engine import Update


class Skips:
    """Tolerates up to `most` skipped (non-finite) updates in a row; one more ends the run, on every rank."""

    def __init__(self, stage: str, most: int):
        self.stage, self.most, self.in_a_row = stage, most, 0

    def check(self, update: Update, batch: Batch, nimg: int, latest: Callable[[], Path | None]) -> None:
        """Count a skipped update; RunError after too many in a row. latest: the newest whole checkpoint, called only then."""
        self.in_a_row = 0 if update.applied else self.in_a_row + 1
        if self.in_a_row <= self.most:
            return
        checkpoint = latest()
        raise RunError(
            f"stage {self.stage}: loss {update.loss}, gradient norm {update.grad_norm} at image {nimg:,}, the "
            f"{self.in_a_row}. update in a row that was skipped ({suspects(update, batch)}); weights are as they were, "
            f"the last good checkpoint is {checkpoint.name if checkpoint else 'none'}"
        )


def suspects(update: Update, batch: Batch) -> str:
    """Keys and sigmas of this rank's images with a non-finite loss, or of its first images if there are none."""
    losses = torch.cat([part.per_image for part in update.losses]).tolist()
    sigmas = torch.cat([part.sigma for part in update.losses]).tolist()
    rows = [k for k, loss in enumerate(losses) if not math.isfinite(loss)] or range(len(batch))
    descriptions = [f"{batch.keys[k]} at sigma {sigmas[k]:.3g}" for k in rows]
    return f"samples {', '.join(descriptions[:8])}{', ...' if len(descriptions) > 8 else ''}"
