"""The loss by noise level, which shows where a network learns or diverges."""

from typing import Any

import torch
from torch import Tensor

from ..objectives.objective import Denoises, Objective
from .engine import Engine, Update

QUARTERS = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)


class SigmaQuartiles:
    """Mean loss by quartile of the objective's levels, lowest sigma first, over all ranks: shows where a network learns or
    diverges."""

    def __init__(self, stage: Denoises, objective: Objective[Any]):
        self.stage, self.objective = stage, objective
        self.edges = objective.levels(stage, QUARTERS).sigma.float().sort().values
        self.sums = torch.zeros(2, 4, dtype=torch.float64)

    def add(self, update: Update) -> None:
        """Add this rank's losses of an update, if it was applied."""
        if not update.applied:
            return
        for part in update.losses:
            quartile = torch.bucketize(part.sigma.cpu(), self.edges.to(part.sigma.dtype))
            losses = self.objective.as_logged(self.stage, part)
            self.sums.index_add_(1, quartile, torch.stack([losses, torch.ones_like(losses)]))

    def take(self, engine: Engine) -> dict[str, float]:
        """loss_q1 to loss_q4 since the last call; collective."""
        sums: Tensor = engine.total(self.sums.clone()).cpu()
        self.sums.zero_()
        return {f"loss_q{k + 1}": (sums[0, k] / sums[1, k]).item() for k in range(4) if sums[1, k]}
