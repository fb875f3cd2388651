"""What benches share that paint by a stage as it is set otherwise: the conditions of a split beside their true pictures.

A super-resolution stage gets THE downsample of the true picture, and every setting the same noise.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from cascade.judge.measuring import BY_LOOK
from cascade.judge.painted import at_size, paint, read_conditions
from cascade.link import Link
from cascade.pipeline import Cascade
from data.alpha import on_background
from data.batch import Batch
from stages.kinds.super_res import SuperResStage


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """A stage, and batches of conditions. true: the pictures that they are of, uint8 (n, c, h, w) at the stage's size."""

    link: Link
    batches: tuple[Batch, ...]
    true: Tensor

    @classmethod
    def load(
        cls, cascade: Path, stage: str, data: Path, *, split: str, limit: int, device: str, precision: str
    ) -> Self:
        """Load a stage of a cascade, and the first `limit` pictures of a split. Raises ValueError."""
        torch.set_flush_denormal(True)
        model = Cascade.load(cascade, first=stage, last=stage, device=device, precision=precision)
        batches = tuple(read_conditions(model, str(data), split, limit))
        size = (model.links[0].sidecar.config.resolution,) * 2
        true = torch.cat([at_size(batch.image, size) for batch in batches])
        return cls(link=model.links[0], batches=batches, true=true)

    def __len__(self) -> int:
        return len(self.true)

    def painted(self, **changes: Any) -> Tensor:
        """One picture for each condition, uint8 (n, c, h, w), by the manifest's settings with these changes. Raises ValueError."""
        images, low_res = [], None
        for batch in self.batches:
            if isinstance(self.link.stage, SuperResStage):
                low_res = at_size(batch.image, (self.link.stage.config.low_res,) * 2)
            images.append(paint(self.link, batch, low_res, **changes).cpu())
        return torch.cat(images)


def features(pictures: Tensor) -> Tensor:
    """The judge's features of looks of pictures uint8 (n, c, h, w), transparent ones on white: (n, 32) float64."""
    return BY_LOOK.features(on_background(pictures))
