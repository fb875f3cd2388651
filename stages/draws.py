"""The randomness of training: a function of (seed, image, name) alone, independent of the order of draws."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from data.batch import Batch

from .diffusion.corrupt import normals, uniforms
from .randomness import generators

UNIFORMS = (
    "sigma", "drop", "flip", "aug_sigma", "crop_y", "crop_x",
    "warp", "warp_x", "warp_y", "warp_scale", "drop_label", "drop_text", "drop_maps",
    "drop_original_size", "drop_position",
)  # fmt: skip
"""Names in the order in which they are drawn: a new one goes to the end, where it leaves the values of the others as they are."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch."""

    batch: Batch
    seed: int

    @cached_property
    def uniforms(self) -> dict[str, Tensor]:
        """Uniform numbers (b,) float64 on the CPU, by name."""
        table = uniforms(generators(self.seed, self.batch.index, "draws"), len(UNIFORMS))
        return dict(zip(UNIFORMS, table.unbind(1), strict=True))

    def numbers(self, purpose: str, num: int) -> Tensor:
        """Uniform numbers (b, num) float64 on the CPU, of a purpose that is not in all trainings."""
        return uniforms(generators(self.seed, self.batch.index, purpose), num)

    def noise(self, purpose: str, shape: torch.Size) -> Tensor:
        """Standard normal (b, ...) of `shape` on the batch's device, from one generator an image."""
        device = self.batch.image.device
        return normals(generators(self.seed, self.batch.index, purpose, device=device), tuple(shape[1:]))
