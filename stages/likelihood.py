"""Command: the likelihood of held-out pictures under a stage's model, in bits per dimension.

python -m stages.likelihood runs/emoji/base_16/bundle shards/emoji_64
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.cli import run
from data.line import say

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from data.batch import Batch, Cond

    from .diffusion.likelihood import Likelihood
    from .stage import Stage

PAIR = (
    "Given its low_res, THE downsample of the picture: a sum over the stages of a cascade is the density of the pair of sizes, "
    "not of the larger one alone."
)


@dataclass(frozen=True, kw_only=True)
class How:
    """probes: how many; method: one of METHODS (diffusion/likelihood.py); seed: of probes and of the noise within a level."""

    probes: int = 1
    method: str = "rk4"
    seed: int = 0


def main(
    bundle: Annotated[Path, typer.Argument(help="the bundle of a stage")],
    data: Annotated[str, typer.Argument(help="shards, from data.pack")],
    split: Annotated[str, typer.Option(help="of the data")] = "val",
    num: Annotated[int, typer.Option(help="most pictures", min=1)] = 64,
    levels: Annotated[int, typer.Option(help="noise levels of the integral, at least 32")] = 64,
    probes: Annotated[int, typer.Option(help="random directions in which volumes are measured", min=1)] = 1,
    method: Annotated[str, typer.Option(help="rk4, or heun: half the calls a step, and four times the levels")] = "rk4",
    sigma_min: Annotated[float, typer.Option(help="lowest level; 0: the stage's own")] = 0.0,
    batch: Annotated[int, typer.Option(help="pictures at once", min=1)] = 16,
    seed: Annotated[int, typer.Option(help="of probes and of the noise within a level of 8 bits")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
) -> None:
    """Print bits per dimension with their spread, and how they were computed."""
    import torch

    from data.read.mixture import facts
    from data.read.shards import read_split

    from .bundle import load_bundle
    from .diffusion.likelihood import METHODS, QUERIES, rising_levels
    from .training.checks import check_data

    if method not in METHODS:
        raise ValueError(f"--method {method}: {' or '.join(sorted(METHODS, reverse=True))} is needed")
    place = device_of(device)
    torch.set_flush_denormal(True)
    stage = load_bundle(bundle, place)
    stage.set_precision("fp32")
    sample, config = stage.config.sample, stage.config
    if not 0 <= sigma_min < sample.sigma_max:
        raise ValueError(f"--sigma-min {sigma_min}: at least 0 and below the stage's sigma_max {sample.sigma_max}")
    sigmas = rising_levels(levels, sigma_min=sigma_min or sample.sigma_min, sigma_max=sample.sigma_max)
    how = How(probes=probes, method=method, seed=seed)
    check_data(config, facts(data))
    parts: list[torch.Tensor] = []
    pictures = read_split(
        data,
        split,
        batch=min(batch, num),
        resolution=config.resolution,
        label=config.cond.num_classes > 0,
        text_tokens=config.cond.text.tokens if config.cond.text else 0,
        maps=config.cond.maps is not None,
        original_sizes=config.cond.original_size is not None,
        limit=num,
    )
    for each in pictures:
        parts.append(bits_per_dim(stage, each.to(place), sigmas, how))
    if not parts:
        raise ValueError(f"{data}: no pictures in split {split}; name another with --split, or pack with --val 0.05")
    bits = torch.cat(parts)
    mean, count = bits.mean(1), len(bits)
    spread = f"{mean.std().item():.3f}" if count > 1 else "unknown of one picture"
    error = f" +- {mean.std().item() / count**0.5:.3f}" if count > 1 else ""
    shape = config.shape(config.gives)
    say(
        f"{mean.mean().item():.3f}{error} bits/dim of {count} pictures of {' x '.join(map(str, shape))} numbers, std {spread}"
    )
    between = f", std between them {bits.std(1).square().mean().sqrt().item():.3f} a picture" if probes > 1 else ""
    calls = (levels - 1) * QUERIES[method] * (1 + 2 * probes)
    directions = f"{probes} probe{'s' * (probes > 1)}{between}"
    low, high = sigmas[0].item(), sigmas[-1].item()
    say(
        f"{levels} levels from {low:.4g} to {high:.4g} by {method}, {directions}; {calls} rows of the network a picture"
    )
    if config.takes:
        say(PAIR)


def device_of(said: str) -> "torch.device":
    """The device cpu, cuda or cuda:NUMBER. Raises ValueError for another, or one that is not here."""
    import torch

    kind, colon, number = said.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isdecimal())):
        raise ValueError(f"--device {said}: allowed are cpu, cuda and cuda:NUMBER")
    num = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= num:
        raise ValueError(
            f"--device {said}: torch sees {num} GPUs; take cpu{f', or cuda:0 to cuda:{num - 1}' if num else ''}"
        )
    return torch.device(said)


def bits_per_dim(stage: "Stage", batch: "Batch", sigmas: "Tensor", how: How) -> "Tensor":
    """-log2 of the probability of each picture's 8-bit levels, over their number: (b, probes), one estimate a probe.

    The picture, rounded to 8 bits at the stage's own size, is spread evenly over its levels (uniform dequantisation, Theis et al.
    2016), so that a density becomes a bound of a probability. Rows and conditions are those of the batch.
    """
    import torch

    from .diffusion.corrupt import uniforms
    from .diffusion.likelihood import log_density
    from .randomness import generators
    from .sampling import conditioned, image_noise, noise_of

    space, device, config = stage.space, batch.image.device, stage.config
    levels = space.store(space.read(batch.image, config.size))
    if levels.dtype != torch.uint8:
        raise ValueError(f"space {config.space.kind}: a likelihood in bits is one of pictures of 8 bits")
    x0 = space.load(levels).to(device)
    width = (space.load(torch.tensor(1, dtype=torch.uint8)) - space.load(torch.tensor(0, dtype=torch.uint8))).item()
    below = None
    if config.takes is not None:
        below = space.load(space.store(space.down(x0, config.shape(config.takes)[1:]))).to(device)
    cond = conditioned(stage, batch.cond, below, config.sample, noise_of("likelihood", how.seed, batch.index, device))
    within = uniforms(generators(how.seed, batch.index, "likelihood/within"), x0[0].numel()).to(x0).reshape(x0.shape)
    shape = (how.probes, *x0.shape[1:])
    probes = image_noise("likelihood", how.seed, batch.index, "probes", shape, device).transpose(0, 1).sign()
    start = cond.value("low_res")
    density = log_density(
        x0 + width * (within - 0.5),
        sigmas,
        mean=torch.zeros_like(x0) if start is None else start,
        probes=probes,
        method=how.method,
    )
    bits = -driven(density, stage, cond) / math.log(2) / x0[0].numel()
    return bits - math.log2(width)


def driven(density: "Likelihood", stage: "Stage", cond: "Cond") -> "Tensor":
    """Run a likelihood to its end with a stage; each row has the cond of the image that it belongs to."""
    import torch

    from .ask import Ask
    from .sampling import answer

    with torch.inference_mode():
        try:
            query = next(density)
            while True:
                given = cond if query.rows is None else cond[query.rows]
                query = density.send(answer(stage, [Ask(query=query, cond=given)])[0])
        except StopIteration as stop:
            return stop.value.cpu()


if __name__ == "__main__":
    run(main)
