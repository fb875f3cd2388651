"""One stage's sampling: its conditions, the start of its sampler, the calls that answer it. For training grids and for cascades."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import Cond

from .ask import OWN, Ask, NamedAsks
from .config import SampleConfig
from .consistency import agreement
from .diffusion.corrupt import normals
from .diffusion.denoiser import Denoiser
from .diffusion.samplers import SAMPLERS, Answer, Noise, Query, Sampler
from .guidance import guidance
from .randomness import generators
from .stage import Stage

Answering = Callable[[Query], Answer]


def image_noise(
    stage: str, seed: int, index: Tensor, purpose: str, shape: tuple[int, ...], device: torch.device | str
) -> Tensor:
    """Noise (b, *shape); row k is a function of (seed, index[k], stage, purpose) alone. Drawn on the CPU: the same on every
    device."""
    return normals(generators(seed, index, f"{stage}/{purpose}"), shape).to(device)


def noise_of(stage: str, seed: int, index: Tensor, device: torch.device | str) -> Noise:
    """Noise source of the images `index` (b,) in a stage; its `shape` argument is that of all rows."""
    return lambda purpose, shape: image_noise(stage, seed, index, purpose, tuple(shape[1:]), device)


def start(
    settings: SampleConfig,
    noise: Noise,
    cond: Cond,
    shape: tuple[int, ...],
    x0: Tensor | None = None,
    levels: Tensor | None = None,
) -> Sampler:
    """Start the sampler that the settings name. shape (b, c, *size); x0: the picture to noise, if it is known. levels: by default
    `settings.sigmas`, all the way to 0.

    The chain should start at x0 + sigma * noise, sigma the first level. Where x0 is unknown, its best stand-in is the condition if
    there is one (relay diffusion, Teng et al. 2023), else 0. The level must drown the stand-in's error: 0.2 for an upsampled
    picture, 1 for none, so super-resolution can start an order of magnitude lower.
    """
    mean = cond.value("low_res") if x0 is None else x0
    x = settings.sigma_start * noise("start", shape)
    x = x if mean is None else x + mean
    return SAMPLERS[settings.sampler](x, settings.sigmas if levels is None else levels, noise, settings.options)


def answer(
    stage: Stage, asks: Sequence[Ask], *, batch: int = 1 << 30, buckets: bool = False, device: torch.device | str = ""
) -> list[Answer]:
    """Answer asks, all of one make, in shared calls of at most `batch` rows, in their order.

    buckets: pad each call to a power of two rows, so that a compiled network sees few shapes. device: where the stage computes, by
    default the device of the asks. Each answer is on the device of its ask.
    """
    device = torch.device(device or asks[0].query.x.device)
    ordered = sorted(asks, key=lambda one: one.second)
    x = torch.cat([ask.query.x.to(device) for ask in ordered])
    sigma = torch.cat([ask.query.sigma.to(device) for ask in ordered])
    cond = Cond.cat([ask.cond.to(device) for ask in ordered])
    parts = []
    for begin in range(0, len(x), batch):
        num = min(batch, len(x) - begin)
        rows = torch.arange(begin, begin + num, device=device)
        if buckets:
            rows = F.pad(rows, (0, min(1 << (num - 1).bit_length(), batch) - num), value=begin)
        estimate = stage.denoise(x[rows], sigma[rows], cond[rows])
        parts.append((estimate.x0_hat[:num], None if estimate.var is None else estimate.var[:num]))
    sizes = [len(ask.query.x) for ask in ordered]
    x0_hats = torch.cat([x0_hat for x0_hat, _ in parts]).split(sizes)
    var_parts = [var for _, var in parts if var is not None]
    variances = torch.cat(var_parts).split(sizes) if var_parts else None
    answers = {}
    for index, ask in enumerate(ordered):
        query_device = ask.query.x.device  # copied: a view would keep the whole batch in memory
        var = None if variances is None else variances[index].to(query_device, copy=True)
        answers[id(ask)] = Answer(x0_hats[index].to(query_device, copy=True), var)
    return [answers[id(ask)] for ask in asks]


def of_own(asks: NamedAsks) -> list[Ask]:
    """Unwrap the asks of a stage that has no host but its own network."""
    assert all(name == OWN for name, _ in asks), f"{sorted({name for name, _ in asks})} are asked, only {OWN} is here"
    return [ask for _, ask in asks]


def conditioned(stage: Stage, cond: Cond, below: Tensor | None, settings: SampleConfig, noise: Noise) -> Cond:
    """Cond of a stage in sampling (see `Stage.condition`); the stage itself answers asks on the way."""
    steps = stage.condition(cond, below, settings, noise)
    try:
        asks = next(steps)
        while True:
            asks = steps.send(answer(stage, of_own(asks)))
    except StopIteration as stop:
        return stop.value


def answering(stage: Stage, settings: SampleConfig, cond: Cond, noise: Noise | None = None) -> Answering:
    """Answers of a stage with the guidance of the settings, for a single sampler. noise: its images', for annealed conditions."""
    rule = guidance(settings, cond, stage.config.cond.names, noise=noise)
    return lambda query: rule.combine(query, answer(stage, of_own(rule.asks(query))))


def guided(stage: Stage, settings: SampleConfig, cond: Cond, noise: Noise | None = None) -> Denoiser:
    """The x0_hat of `answering`, of all images at a time."""
    answers = answering(stage, settings, cond, noise)
    return lambda x, sigma: answers(Query(x, sigma)).x0_hat


def finished(sampler: Sampler, answers: Answering) -> Tensor:
    """Run a sampler to its end. Unlike `drive` it passes on which rows are queried, and sends answers with their variance."""
    try:
        query = next(sampler)
        while True:
            query = sampler.send(answers(query))
    except StopIteration as stop:
        return stop.value


@torch.inference_mode()
def sample_alone(
    stage: Stage,
    settings: SampleConfig,
    cond: Cond,
    noise: Noise,
    shape: tuple[int, ...],
    below: Tensor | None = None,
) -> Tensor:
    """Sample x0 of `shape` (b, c, *size) from one stage, start to end, clamped to the bounds of its space. below: its low_res
    at its own size, where the settings correct by it."""
    answers, corrections = answering(stage, settings, cond, noise), agreement(settings, below, stage.space)

    def corrected(query: Query) -> Answer:
        answer = answers(query)
        for each in corrections:
            answer = each.each(query, answer)
        return answer

    x0 = finished(start(settings, noise, cond, shape), corrected)
    for each in corrections:
        x0 = each.finish(x0)
    return x0.clamp(*stage.space.bounds)
