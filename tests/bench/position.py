"""What the position of a crop is worth: the same small network, pictures, seed and updates with `cond.position` and without.

    python tests/bench/position.py --out runs/position --images 3200

sr_32 (8 -> 32 px, crops of 16) on the emoji of data/emoji64, a quarter of them held out. Prints held-out losses with equal noise
and crops, four times over: with the right positions, with those of another crop, and of the network that is told none; and the mean
difference of the first two, picture by picture, with its standard error. One thread.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from data.batch import Batch, Cond
from data.cli import run
from data.line import say
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import Reader, read_split
from stages.build import build_stage
from stages.config import SuperResConfig
from stages.draws import Draws
from stages.objectives.denoising import DENOISING
from stages.stage import Stage
from stages.training.engine import LocalEngine
from tests.stages.tiny import train_config, unet_config

EMOJI = Path(__file__).parents[2] / "data" / "emoji64"
BATCH, LR, REPEATS = 8, 0.06, 4


def main(
    out: Annotated[Path, typer.Option(help="folder for the shards")],
    images: Annotated[int, typer.Option(help="of each training", min=BATCH)] = 3200,
) -> None:
    """Train twice and print the losses."""
    torch.set_num_threads(1)
    pack(EMOJI, out / "shards", PackSettings(size=32, val=0.25, shards=8), workers=0)
    told, untold = (trained(out / "shards", images, cond) for cond in ({"position": {}}, {}))
    right, wrong = losses(told, out / "shards", shuffled=False), losses(told, out / "shards", shuffled=True)
    without = losses(untold, out / "shards", shuffled=False)
    apart = wrong - right
    say(f"right {right.mean():.4f}  of another crop {wrong.mean():.4f}  not told {without.mean():.4f}")
    say(f"of another crop less right: {apart.mean():.4f} +- {apart.std() / len(apart) ** 0.5:.4f} ({len(apart)} crops)")


def trained(shards: Path, images: int, cond: dict) -> Stage:
    """The network after its training, at a rate that falls to 0."""
    net, train = unet_config(), train_config(images=images, batch=BATCH, lr=LR, warmup=400)
    config = SuperResConfig(low_res=8, resolution=32, crop=16, net=net, cond=cond, train=train)
    torch.manual_seed(0)
    stage = build_stage(config)
    engine = LocalEngine(stage, config.train, torch.device("cpu"))
    batches = Reader(places=str(shards), batch=BATCH, resolution=32).batches()
    for number, batch in enumerate(islice(batches, images // BATCH)):
        engine.update([batch], LR * (1 - number * BATCH / images))
    return stage.eval()


@torch.no_grad()
def losses(stage: Stage, shards: Path, *, shuffled: bool) -> Tensor:
    """The loss of each held-out crop; shuffled: told the position of its neighbour."""
    found = []
    for batch in held(shards):
        draws = Draws(batch, 7)
        x0, cond = stage.prepared(batch, draws, None)
        levels = DENOISING.levels(stage, draws.uniforms["sigma"]).to(x0)
        found.append(DENOISING.loss(stage, x0, moved(cond) if shuffled else cond, levels, draws))
    return torch.cat(found)


def held(shards: Path) -> Iterator[Batch]:
    """The held-out pictures REPEATS times, with other crops and noise each time."""
    for repeat in range(REPEATS):
        for batch in read_split(str(shards), "val", batch=64, resolution=32):
            yield replace(batch, index=batch.index + 1000 * repeat)


def moved(cond: Cond) -> Cond:
    """A cond whose rows have each other's positions."""
    part = cond.parts["position"]
    return replace(cond, parts={**cond.parts, "position": replace(part, value=part.value.roll(1, 0))})


if __name__ == "__main__":
    run(main)
