"""The loss by noise level, which shows where a network learns or diverges."""

import math

import torch
from torch import Tensor

from ..config import NoiseConfig
from .engine import Engine, Update

Z = 0.6744897501960817  # the quartiles of a normal distribution are mean +- Z std


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
            quartile = torch.bucketize(part.sigma.cpu(), self.edges.to(part.sigma.dtype))
            values = torch.stack([part.per_image.double().cpu(), torch.ones(len(quartile), dtype=torch.float64)])
            self.sums.index_add_(1, quartile, values)

    def take(self, engine: Engine) -> dict[str, float]:
        """loss_q1 to loss_q4 since the last call; collective."""
        sums: Tensor = engine.total(self.sums.clone()).cpu()
        self.sums.zero_()
        return {f"loss_q{k + 1}": (sums[0, k] / sums[1, k]).item() for k in range(4) if sums[1, k]}
