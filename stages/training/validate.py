"""Validation loss of the averaged weights, on held-out pictures with the same noise and levels every time, so that values compare.

A super-resolution stage is also validated on the kind of low_res that it meets in the cascade. With the bundle of the stage below,
each held-out low_res is noised to TRUNCATED and denoised by that stage (SDEdit, Meng et al. 2021): the same content with that
stage's own mistakes, so that the truth is still known.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.batch import Batch
from data.read.mixture import MixtureLike, facts
from data.read.shards import read_split

from ..bundle import load_bundle, read_sidecar
from ..config import StageConfig
from ..memory import Portions, device_of
from ..objectives.denoising import DENOISING
from ..objectives.objective import Objective
from ..sampling import answering, conditioned, finished, noise_of, start
from ..spaces.space import Space
from ..stage import Stage
from .linear_floor import linear_floor

SEED = 2**31 - 1  # of validation's noise and levels: no image of a training run shares its draws
TRUNCATED = 1.0  # noise level from which the stage below samples a held-out picture again


@dataclass(frozen=True)
class Validation:
    """Held-out batches, kept in memory; for each the low_res that the stage below makes, if there is one; the objective of the
    validation loss."""

    batches: list[Batch]
    low_res: list[Tensor] | None
    objective: Objective[Any] = DENOISING
    portions: Portions = field(default_factory=lambda: Portions("validation"))

    @torch.no_grad()
    def losses(self, stage: Stage) -> dict[str, float]:
        """val_loss and, with a stage below, val_loss_generated: means over the held-out images, omitted if memory does not suffice.
        `stage` must be in evaluation mode."""
        results = {"val_loss": self._mean(stage, [None] * len(self.batches))}
        if self.low_res is not None:
            results["val_loss_generated"] = self._mean(stage, self.low_res)
        return {name: loss for name, loss in results.items() if loss is not None}

    def floor(self, stage: Stage) -> float | None:
        """The linear floor of the first pictures, with the noise of `losses`; None where there is none."""
        return linear_floor(stage, self.batches, SEED, self.objective)

    def _mean(self, stage: Stage, low_res: list[Tensor] | list[None]) -> float | None:
        device, losses = device_of(stage), []
        for batch, given in zip(self.batches, low_res, strict=True):

            def loss(own: slice, batch: Batch = batch, given: Tensor | None = given) -> Tensor:
                lower = None if given is None else given[own].to(device)
                return stage(batch[own].to(device), SEED, lower, self.objective).per_image.cpu()

            parts = self.portions.each(len(batch), loss)
            if parts is None:
                return None
            losses += parts
        return torch.cat(losses).mean().item()


def check_lower(config: StageConfig, lower: Path, data: MixtureLike) -> None:
    """Raise ValueError if `lower` is not the bundle of the stage below, or there is nothing to validate on."""
    if config.takes is None:
        raise ValueError(f"--lower {lower}: a base stage has none below; leave it out")
    lower_size = read_sidecar(lower).contract.resolution
    if lower_size != config.takes[0]:
        raise ValueError(f"--lower {lower} makes {lower_size} px, this stage takes low_res {config.takes[0]}")
    if not config.train.val_images or not facts(data).num_images.get("val"):
        raise ValueError(
            "--lower needs held-out pictures: pack with --val 0.05, name some with --val-data, val_images above 0"
        )


def make_validation(
    config: StageConfig, data: MixtureLike, device: torch.device, lower: Path | None
) -> Validation | None:
    """Make the validation; None if the data have no val split or val_images is 0."""
    if lower is not None:
        check_lower(config, lower, data)
    if not config.train.val_images or not facts(data).num_images.get("val"):
        return None
    batches = list(held_out(config, data, config.train.val_images))
    low_res = None
    if lower is not None and config.takes is not None:
        low_res = all_resampled(load_bundle(lower, device), batches, config.space.build())
    return Validation(batches, low_res, config.train.objective.build().judge)


def held_out(config: StageConfig, data: MixtureLike, limit: int, split: str = "val") -> Iterator[Batch]:
    """Yield the first `limit` pictures of a split in batches, as `config` takes them."""
    return read_split(
        data,
        split,
        batch=min(limit, 64),
        resolution=config.resolution,
        label=config.cond.num_classes > 0,
        text_tokens=config.cond.text.tokens if config.cond.text else 0,
        maps=config.cond.maps is not None,
        original_sizes=config.cond.original_size is not None,
        limit=limit,
    )


def all_resampled(below: Stage, batches: list[Batch], space: Space) -> list[Tensor] | None:
    """`resampled` of each batch, as x0 of `space`, on the CPU; None if memory does not suffice for a single picture."""
    device, portions, low_res = device_of(below), Portions("validation with --lower"), []
    for batch in batches:

        def again(own: slice, batch: Batch = batch) -> Tensor:
            x0 = resampled(below, batch[own].to(device))
            return (x0 if space is below.space else space.load(below.space.store(x0))).cpu()

        parts = portions.each(len(batch), again)
        if parts is None:
            return None
        low_res.append(torch.cat(parts))
    return low_res


@torch.no_grad()
def resampled(below: Stage, batch: Batch) -> Tensor:
    """The stage below's own version (b, c, *size) of a batch's pictures: noised to TRUNCATED, then sampled from there."""
    space, truth = below.space, below.space.read(batch.image, below.config.size)
    settings = below.config.sample.model_copy(update={"sigma_max": max(TRUNCATED, 2 * below.config.sample.sigma_min)})
    noise = noise_of("val", 0, batch.index, truth.device)
    takes = below.config.takes
    lower = None if takes is None else space.down(truth, below.config.shape(takes)[1:])
    cond = conditioned(below, batch.cond, lower, settings, noise)
    sampler = start(settings, noise, cond, truth.shape, x0=truth)
    return finished(sampler, answering(below, settings, cond)).clamp(*space.bounds)
