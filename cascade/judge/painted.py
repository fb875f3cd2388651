"""Pictures of a cascade's stages for the conditions of a data set, a stage at a time, beside the true ones at each stage's size.

The networks are called as in sampling: guidance by a host of its own counts, and a call that runs out of memory is repeated with
fewer rows. The noise of a picture is that of its position in the split, so that settings are compared on the same noise. A stage
that reads an original size is told what it is told in sampling: that of its settings, else its own.
"""

from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cascade.conditions import for_stage
from cascade.engine.alone import advance, answered
from cascade.engine.chunk import asked
from cascade.engine.host import Asks
from cascade.engine.stats import HostStats
from cascade.engine.tiles import answered as in_tiles
from cascade.link import Link, with_settings
from cascade.pipeline import Cascade
from data.batch import Batch, to_float, to_uint8
from data.errors import RunError
from data.read.mixture import facts
from data.read.shards import read_split
from data.resize import downsample
from stages.consistency import agreement
from stages.diffusion.samplers import Answer
from stages.guidance import guidance
from stages.sampling import noise_of, start
from stages.training.checks import check_maps

PAINTED_AT_ONCE = 16  # pictures


def read_conditions(model: Cascade, data: str, split: str = "val", num: int = 0) -> Iterator[Batch]:
    """The first `num` pictures of a split (0: all) with the conditions that the cascade takes. Raises ValueError."""
    configs = [link.sidecar.config for link in model.links]
    texts = [config.cond.text.tokens for config in configs if config.cond.text]
    for config in configs:
        check_maps(config, facts(data))
    yield from read_split(
        data, split, batch=PAINTED_AT_ONCE, resolution=max(config.resolution for config in configs), limit=num,
        label=any(config.cond.num_classes for config in configs), text_tokens=max(texts, default=0),
        maps=any(config.cond.maps for config in configs),
    )  # fmt: skip


def at_size(pictures: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pictures uint8 (b, c, h, w) at (height, width) by THE downsample."""
    height, width = size
    return to_uint8(downsample(to_float(pictures), (height, width)))


def paint(link: Link, batch: Batch, below: Tensor | None = None, *, seed: int = 0, **changes: Any) -> Tensor:
    """Pictures uint8 (b, c, h, w) of one stage for the conditions of a batch; changes: to its settings.

    below: uint8 pictures of the stage below, for a super-resolution stage. Raises ValueError for settings that are not allowed,
    RunError for NaN or infinity and where memory does not suffice.
    """
    link = with_settings([link], {link.name: changes})[0] if changes else link
    if link.settings.sigma_end:
        raise ValueError(
            f"stage {link.name}: sigma_end {link.settings.sigma_end:g}: stages are judged one by one, by finished pictures; set it "
            "to 0 in the manifest to judge this cascade"
        )
    finished: list[Tensor] = []
    steps = _steps(link, batch, below, seed, finished)
    stats: Mapping[str, HostStats] = defaultdict(lambda: HostStats(batch=2 * PAINTED_AT_ONCE))
    asks = advance(steps, None, link.name)
    while asks:
        asks = advance(steps, answered(asks, stats), link.name)
    return finished[0]


def _steps(
    link: Link, batch: Batch, below: Tensor | None, seed: int, finished: list[Tensor]
) -> Generator[Asks, list[Answer], None]:
    config, stage, device = link.sidecar.config, link.stage, link.device
    noise = noise_of(link.name, seed, batch.index, device)
    low_res = None if below is None else stage.space.load(below).to(device)
    own = for_stage(batch.cond, config.cond).to(device)
    cond = yield from asked(link, stage.condition(own, low_res, link.settings, noise))
    rule = guidance(link.settings, cond, config.cond.names, link.hosts, noise=noise)
    sampler = start(link.settings, noise, cond, (len(batch), *config.shape(config.gives)))
    corrections = agreement(link.settings, low_res, stage.space)
    query = next(sampler)
    while True:
        answer = yield from in_tiles(link, rule, query)
        for each in corrections:
            answer = each.each(query, answer)
        if not torch.isfinite(answer.x0_hat).all():
            raise RunError(f"stage {link.name}: NaN or infinity in x0_hat; try --precision fp32")
        try:
            query = sampler.send(answer)
        except StopIteration as stop:
            x0 = stop.value
            for each in corrections:
                x0 = each.finish(x0)
            finished.append(stage.space.show(stage.space.store(x0)))
            return
