"""Networks beside each other at equal processor time: a base stage of 16 px emoji with captions.

    python tests/bench/networks.py --out runs/networks
    python tests/bench/networks.py --out runs/mine --seconds 60 --net "unet={widths: [48, 96], blocks: [2, 2]}" \
        --net "dit-x0={kind: dit, width: 128, depth: 6, head_dim: 32, parametrisation: {kind: x0}}"

Paired: one process and one thread, the networks take turns, a second each, so that whatever else the machine does slows them
alike. Each is trained for --seconds of the thread's own time, on the same pictures in the same order; the cosine falls over that
time, and the rate follows from the number of updates that it will have had (stages/README.md). Told are the loss of the averaged
weights on held-out pictures, KID of unguided samples in 8 steps (32 numbers of a picture, cascade.judge) against all pictures, and
the time of a call of 16 pictures. For each network its weights and a grid of samples above the truth are written.
"""

import json
import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml
from machine import describe, table
from torch import Tensor

from data.cli import run

ROOT = Path(__file__).parents[2]
NETS = (
    "unet={widths: [48, 96], blocks: [2, 2], self_attention: [1], cross_attention: [1], head_dim: 48, emb_dim: 128}",
    "dit={kind: dit, patch: 2, width: 128, depth: 6, head_dim: 32, text: cross, head: conv, emb_dim: 128}",
    "dit-x0={kind: dit, patch: 2, width: 128, depth: 6, head_dim: 32, text: cross, head: conv, emb_dim: 128,"
    " parametrisation: {kind: x0}}",
)
BATCH, TURN_S, HALF_LIFE = 16, 1.0, 0.07  # the average's half-life as a share of the images
TURNS = {"unet": 3.0, "dit": 0.3}  # lr x sqrt(updates), by net.kind; a dit learns nothing from 0.5 on
HEAD = (
    "network",
    "parameters",
    "MFLOP",
    "updates",
    "ms an update",
    "lr",
    "val loss",
    "KID x 1000",
    "error",
    "ms a call",
)


@dataclass
class Contender:
    """A network in training, with the seconds that it has used."""

    name: str
    config: object
    engine: object
    ema: object
    batches: object
    lr: float = 0.0
    spent: float = 0.0
    updates: int = 0
    losses: list[float] = field(default_factory=list)

    def turn(self, seconds: float, budget: float) -> None:
        """Updates for `seconds` of this thread's time."""
        end = min(self.spent + seconds, budget)
        while self.spent < end:
            batch = next(self.batches)
            began = time.thread_time()
            share = self.spent / budget
            warm = min(1.0, share / 0.02)
            update = self.engine.update([batch], self.lr * warm * (1 + math.cos(math.pi * share)) / 2)
            self.updates += 1
            self.ema.update(self.engine.stage, nimg=self.updates * BATCH, batch=BATCH)
            self.spent += time.thread_time() - began
            self.losses.append(update.loss)


def main(
    out: Annotated[Path, typer.Option(help="folder for results.json and the grids")],
    source: Annotated[Path, typer.Option(help="pictures with captions")] = ROOT / "data" / "emoji64",
    seconds: Annotated[float, typer.Option(help="processor time of each network's training", min=5)] = 240.0,
    seed: Annotated[int, typer.Option(help="of weights, order and noise")] = 0,
    net: Annotated[
        list[str] | None, typer.Option(help="NAME={keys of net, or parametrisation, as in the YAML}; default: NETS")
    ] = None,
) -> None:
    """Train the networks in turns, judge each, print the table."""
    from data.pack.packer import pack
    from data.pack.settings import PackSettings

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        pack(source, shards, PackSettings(size=16, text_encoder="minilm", val=0.15), workers=0)
        all_ = [contender(each, shards, seconds, seed) for each in net or NETS]
        while any(each.spent < seconds for each in all_):
            for each in all_:
                each.turn(TURN_S, seconds)
        rows = [judged(each, shards, out) for each in all_]
    (out / "results.json").write_text(json.dumps([dict(zip(HEAD, row, strict=True)) for row in rows], indent=1))
    print(describe())
    print(table(HEAD, [[shown(cell) for cell in row] for row in rows]))


def contender(text: str, shards: Path, budget: float, seed: int) -> Contender:
    """The network of NAME={keys}, with a rate for as many updates as it will make."""
    from cascade.config import load_config
    from data.read.shards import Reader
    from stages.build import build_stage
    from stages.config import BaseConfig
    from stages.texts import as_values
    from stages.training.ema import Ema
    from stages.training.engine import LocalEngine

    name, _, keys = text.partition("=")
    values = as_values(load_config("emoji_tiny").stages["base_16"])
    net = yaml.safe_load(keys)
    values |= {"parametrisation": net.pop("parametrisation")} if "parametrisation" in net else {}
    values["net"] = net
    values["train"] |= {"precision": "fp32", "compile": False, "seed": seed}
    config = BaseConfig.model_validate(values, strict=False)
    tokens = config.cond.text.tokens if config.cond.text else 0

    def start(updates: float) -> Contender:
        torch.manual_seed(seed)
        reader = Reader(places=str(shards), batch=BATCH, resolution=16, seed=seed, text_tokens=tokens)
        engine = LocalEngine(build_stage(config), config.train, torch.device("cpu"))
        ema = Ema(engine.stage, (max(int(HALF_LIFE * updates * BATCH), 1),))
        return Contender(name, config, engine, ema, reader.batches(0), lr=TURNS[config.net.kind] / updates**0.5)

    trial = start(1)
    trial.lr = 1e-9
    trial.turn(2.0, math.inf)
    return start(max(budget * trial.updates / trial.spent, 1))


def judged(each: Contender, shards: Path, out: Path) -> list[object]:
    """A row of the table; writes the grid."""
    from safetensors.torch import save_file

    from cascade.judge.kernel import kernel_distance
    from cascade.judge.look import look
    from data.batch import Cond, to_uint8
    from data.read.shards import read_split
    from stages.sampling import noise_of, sample_alone
    from stages.tools.cost import cost_of
    from stages.training.grid import sample_grid, save_picture
    from stages.training.validate import Validation, held_out

    stage, config = next(iter(each.ema.averages.values())).module.eval(), each.config
    save_file(stage.state_dict(), out / f"{each.name}.safetensors")
    unguided = config.sample.model_copy(update={"guidance_scale": 1.0, "num_steps": 8})
    held = list(held_out(config, str(shards), 10**6))
    loss = Validation(held, None).losses(stage)["val_loss"]
    tokens = config.cond.text.tokens if config.cond.text else 0
    truth: list[Tensor] = []
    made: list[Tensor] = []
    for split in ("train", "val"):
        for batch in read_split(str(shards), split, batch=64, resolution=16, text_tokens=tokens):
            truth.append(batch.image)
            noise = noise_of("networks", 0, batch.index + 10_000 * (split == "val"), "cpu")
            shape = (len(batch), *config.shape(config.gives))
            made.append(to_uint8(sample_alone(stage, unguided, batch.cond, noise, shape)))
    kid = kernel_distance(look(torch.cat(truth)), look(torch.cat(made)))
    save_picture(sample_grid(stage, held[0][slice(0, 16)]), out / f"{each.name}.png")
    x, sigma = torch.randn(16, *config.shape(config.gives)), torch.ones(16)
    began, calls = time.thread_time(), 0
    with torch.inference_mode():
        while time.thread_time() - began < 1:
            stage.denoise(x, sigma, Cond.empty(16))
            calls += 1
    cost = cost_of(config)
    return [
        each.name, cost.parameters, cost.forward_flops / 1e6, each.updates, 1000 * each.spent / each.updates, each.lr, loss,
        1000 * kid.value, 1000 * kid.error, 1000 * (time.thread_time() - began) / calls,
    ]  # fmt: skip


def shown(cell: object) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else str(cell)


if __name__ == "__main__":
    run(main)
