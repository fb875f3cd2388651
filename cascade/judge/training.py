"""Scores of a stage while it is trained: the same held-out conditions with the same noise every time, so that values compare.

A super-resolution stage is given true low_res, as in its sample grids, and one that reads an original size is told that of each
picture, unless its settings say another; whole pictures have the positions of whole pictures. The noise is a function of the
position alone, so that the training's randomness is not touched and a resumed run logs what an undisturbed one would have.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cascade.judge.brief import brief
from cascade.judge.features import SAMPLES_A_DIMENSION
from cascade.judge.look import DIMENSIONS
from cascade.judge.painted import PAINTED_AT_ONCE, at_size
from data.alpha import on_background
from data.batch import Batch
from data.line import say
from data.read.mixture import MixtureLike, facts
from data.read.shards import read_split
from stages.config import StageConfig
from stages.memory import Portions, device_of
from stages.sampling import conditioned, noise_of, sample_alone
from stages.stage import Stage

FEWEST = 4  # pictures


def stage_score(config: StageConfig, data: MixtureLike) -> Callable[[Stage], dict[str, float]]:
    """What scores a stage of this config on the first `train.score_images` held-out pictures, which it keeps in memory.

    Raises ValueError, naming the keys, if the data have no val split or fewer than 4 pictures in it.
    """
    there = facts(data).num_images.get("val", 0)
    if there < FEWEST:
        raise ValueError(
            f"train.score_every {config.train.score_every}: {there} held-out pictures, at least {FEWEST} are needed; pack with "
            "--val 0.05, name some with --val-data, or set train.score_every=0"
        )
    batches = list(
        read_split(
            data, "val", batch=PAINTED_AT_ONCE, resolution=config.resolution, limit=min(config.train.score_images, there),
            label=config.cond.num_classes > 0, text_tokens=config.cond.text.tokens if config.cond.text else 0,
            maps=config.cond.maps is not None,
            original_sizes=config.cond.original_size is not None,
        )
    )  # fmt: skip
    truth = on_background(torch.cat([at_size(batch.image, config.gives) for batch in batches]))
    portions = Portions("scores")

    if len(truth) < (needed := SAMPLES_A_DIMENSION * DIMENSIONS):
        say(f"note: scores without KID: {len(truth):,} held-out pictures, {needed} are needed", sys.stderr)

    def scores(stage: Stage) -> dict[str, float]:
        made: list[Tensor] = []
        for batch in batches:
            parts = portions.each(len(batch), partial(_paint, stage, batch))
            if parts is None:
                return {}
            made += parts
        found = brief(on_background(torch.cat(made)), truth)
        means = {"match": found.match, "sharpness": found.sharpness, "grain": found.grain, "swd": found.swd}
        values = {f"score_{name}": value for name, (value, _) in means.items()}
        return values | ({"score_kid": found.kid[0], "score_kid_error": found.kid[1]} if found.kid else {})

    return scores


@torch.inference_mode()
def _paint(stage: Stage, whole: Batch, own: slice) -> Tensor:
    """Pictures uint8 (b, c, h, w) for the conditions of a part of a batch, with the settings of the stage's config."""
    settings, config, device = stage.config.sample, stage.config, device_of(stage)
    batch = whole[own].to(device)
    truth = stage.space.read(batch.image, config.size)
    noise = noise_of("score", 0, batch.index, device)
    below = None if config.takes is None else stage.space.down(truth, config.shape(config.takes)[1:])
    cond = conditioned(stage, batch.cond, below, settings, noise)
    x0 = sample_alone(stage, settings, cond, noise, truth.shape, below)
    return stage.space.show(stage.space.store(x0)).cpu()
