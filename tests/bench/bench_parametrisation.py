"""What spectral preconditioning costs: updates of a preset's stage with it and without, in turns, and the parametrisation alone.

    python tests/bench/bench_parametrisation.py emoji_tiny sr_64 --bands 5

Processor time of one thread, which other processes on the machine disturb little; the ratio is the median of paired ones. As the
noise of whole updates is larger than what is looked for, `alone` times the parametrisation itself, inputs, estimate and weight, and
tells the difference as a share of an update.
"""

import time
from statistics import median, quantiles
from typing import Annotated

import torch
import typer
from machine import describe

from cascade.config import load_config, stage_of
from cascade.train.costs import random_batch
from data.cli import run
from stages.build import build_stage
from stages.parametrisations.spectral_config import SpectralConfig
from stages.stage import Stage


def main(
    cascade: Annotated[str, typer.Argument(help="a preset, or a YAML file")],
    stage: Annotated[str, typer.Argument(help="the stage")],
    bands: Annotated[int, typer.Option(help="octaves")] = 5,
    batch: Annotated[int, typer.Option(help="images of an update")] = 8,
    pairs: Annotated[int, typer.Option(help="how many pairs of updates")] = 15,
) -> None:
    """Print the ratio of updates, and what the parametrisations take alone."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    plain = stage_of(load_config(cascade), stage)
    rows = tuple((0.2 * 2**k, 0.1 * 2**k, 0.1 * 2**k) for k in range(bands))
    error = tuple((0.2 / 2**k,) * 3 for k in range(bands)) if plain.takes else ()
    form = SpectralConfig(bands=bands, std=rows, error=error, mean=(0.5, 0.4, 0.3))
    stages = [build_stage(each) for each in (plain, plain.model_copy(update={"parametrisation": form}))]
    images = random_batch(plain, batch)
    optimizers = [torch.optim.AdamW(each.parameters(), lr=1e-3) for each in stages]

    def update(which: int) -> float:
        start = time.thread_time()
        stages[which](images, seed=0).loss.backward()
        optimizers[which].step()
        optimizers[which].zero_grad()
        return time.thread_time() - start

    times: list[tuple[float, float]] = []
    for pair in range(pairs + 2):
        first = pair % 2
        one, other = update(first), update(1 - first)
        times.append((other, one) if first else (one, other))
    times = times[2:]
    ratios = [spectral / edm for edm, spectral in times]
    low, middle, high = quantiles(ratios, n=4)
    whole = median(edm for edm, _ in times)
    alone = [own_time(each, batch) for each in stages]
    share = 100 * (alone[1] - alone[0]) / whole
    print(describe())
    print(f"{cascade} {stage}, batch {batch}, {bands} bands: update {1e3 * whole:.0f} ms")
    print(f"paired ratio {middle:.3f} (quartiles {low:.3f} and {high:.3f})")
    print(f"alone: edm {1e3 * alone[0]:.2f} ms, spectral {1e3 * alone[1]:.2f} ms, {share:.1f} % of an update more")


def own_time(stage: Stage, batch: int) -> float:
    """Seconds of what a parametrisation does in an update."""
    config, form = stage.config, stage.parametrisation
    size = config.size if config.train_size == config.resolution else config.shape((config.train_size,) * 2)[1:]
    x = torch.randn(batch, *config.shape(config.gives)[:1], *size)
    sigma, times = torch.ones(batch), []
    given = (x, sigma) if config.takes is not None else (None, None)
    for _ in range(30):
        start = time.thread_time()
        form.inputs(x, sigma, *given)
        form.estimate(x, x, sigma, *given)
        form.weight(sigma, given[1])
        times.append(time.thread_time() - start)
    return median(times)


if __name__ == "__main__":
    run(main)
