"""Training objectives beside each other: one small base stage of emoji (16 px, no conditions), the same processor seconds each.

    python tests/bench/objectives.py --out runs/objectives [--seconds 30] [--pictures data/emoji64] [--only "default|min_snr"]

All start from the same weights and see the same pictures in the same order; the learning rate falls to 0 over the seconds. The
average of the weights is judged: by the validation loss, the default weight at the default levels for all, and by the sliced
Wasserstein distance of as many samples as there are held-out pictures, mean over 8 seeds of patches; `floor` is that of true
pictures. Seconds are processor time of the updates alone, so that a busy machine moves nothing but the wait.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from machine import describe, table

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from data.cli import run  # noqa: E402

BATCH, HELD, HALF_LIFE = 16, 64, 1500
OBJECTIVES: dict[str, dict[str, Any]] = {
    "default": {},
    "default, seed 1": {},
    "eps": {"weight": {"kind": "eps"}},
    "x0": {"weight": {"kind": "x0"}},
    "v": {"weight": {"kind": "v"}},
    "flow": {"weight": {"kind": "flow"}},
    "flow, logit_normal": {"weight": {"kind": "flow"}, "levels": {"kind": "logit_normal"}},
    "min_snr": {"weight": {"kind": "min_snr"}},
    "soft_min_snr": {"weight": {"kind": "soft_min_snr"}},
    "p2": {"weight": {"kind": "p2"}},
    "sigmoid, log_uniform": {"weight": {"kind": "sigmoid"}, "levels": {"kind": "log_uniform"}},
    "uncertainty": {"weight": {"kind": "uncertainty"}},
    "importance": {"importance": {}},
    "hybrid": {"kind": "hybrid"},
}
HEAD = ("objective", "updates", "val loss", "SWD 16 px")


def main(
    out: Annotated[Path, typer.Option(help="folder for results.json and the samples")],
    pictures: Annotated[Path, typer.Option(help="folder of PNGs")] = ROOT / "data" / "emoji64",
    seconds: Annotated[float, typer.Option(help="of the processor, for the updates of one objective")] = 30.0,
    only: Annotated[str, typer.Option(help="names with | between them; empty: all")] = "",
    lr: Annotated[float, typer.Option(help="learning rate at the start")] = 0.06,
) -> None:
    """Train and judge each objective, print the table."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    images = load(pictures)
    rows = []
    for name, keys in OBJECTIVES.items():
        if only and name not in only.split("|"):
            continue
        rows.append({"name": name} | one(name, keys, images, seconds, lr, out))
        print(json.dumps(rows[-1]), flush=True)
        (out / "results.json").write_text(json.dumps(rows, indent=1))
    print(describe())
    cells = [(row["name"], row["updates"], f"{row['loss']:.4f}", f"{row['swd']:.3f}") for row in rows]
    print(table(HEAD, [*cells, ("floor", "-", "-", f"{distance(images[HELD : 2 * HELD], images[:HELD]):.3f}")]))


def load(folder: Path) -> torch.Tensor:
    """The pictures of a folder on white, by THE downsample to 16 px: uint8 (n, 3, 16, 16) in an order of chance."""
    import numpy as np
    from PIL import Image

    from data.batch import to_float, to_uint8
    from data.resize import downsample

    read = []
    for path in sorted(folder.glob("*.png")):
        picture = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        read.append(np.asarray(Image.alpha_composite(white, picture).convert("RGB")))
    stacked = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2)
    order = torch.randperm(len(stacked), generator=torch.Generator().manual_seed(0))
    return to_uint8(downsample(to_float(stacked), (16, 16)))[order]


def one(name: str, keys: dict[str, Any], images: torch.Tensor, seconds: float, lr: float, out: Path) -> dict[str, Any]:
    """Train one objective for `seconds` of this process, and judge it."""
    from stages.build import build_stage
    from stages.config import BaseConfig
    from stages.training.ema import Ema
    from stages.training.engine import LocalEngine

    config = BaseConfig.model_validate(
        {
            "resolution": 16,
            "net": {"widths": [24, 48], "blocks": [1, 1], "emb_dim": 64},
            "noise": {"sigma_data": 0.78, "mean": -0.4, "std": 1.5},
            "learned_variance": keys.get("kind") == "hybrid",
            "train": {"objective": {"kind": "denoising"} | keys, "precision": "fp32", "seed": int("seed 1" in name)},
            "sample": {"num_steps": 16, "sigma_min": 0.05},
        }
    )
    torch.manual_seed(0)
    stage = build_stage(config)
    engine, ema = LocalEngine(stage, config.train, torch.device("cpu")), Ema(stage, (HALF_LIFE,))
    order = torch.Generator().manual_seed(config.train.seed)
    spent, nimg = 0.0, 0
    while spent < seconds:
        rows = HELD + torch.randint(len(images) - HELD, (BATCH,), generator=order)
        warm = min(1, nimg / 1000)
        began = time.process_time()
        update = engine.update(
            [batch_of(images[rows], nimg)], lr * warm * (1 + math.cos(math.pi * spent / seconds)) / 2
        )
        engine.objective.learn(engine.stage, update.losses, engine.total)
        spent += time.process_time() - began
        nimg += BATCH
        ema.update(stage, nimg=nimg, batch=BATCH)
    return {"updates": nimg // BATCH} | judge(ema.module(HALF_LIFE), images, out / f"{name.replace(', ', '-')}.png")


def batch_of(images: torch.Tensor, start: int):
    """A batch at these positions of a run."""
    from data.batch import Batch, Cond

    num = len(images)
    return Batch(image=images, cond=Cond.empty(num), index=torch.arange(start, start + num), keys=("",) * num)


@torch.inference_mode()
def judge(stage, images: torch.Tensor, path: Path) -> dict[str, float]:
    """Validation loss over 8 draws of level and noise for each held-out picture, and the distance of samples; paints them."""
    from torchvision.utils import make_grid

    from data.batch import Cond
    from stages.sampling import noise_of, sample_alone
    from stages.training.grid import save_picture
    from stages.training.validate import SEED, Validation

    held = images[:HELD].repeat(8, 1, 1, 1)
    assert stage.config.train.seed != SEED
    loss = Validation([batch_of(held, 0)], None).losses(stage)["val_loss"]
    noise = noise_of("bench", 0, torch.arange(HELD), "cpu")
    x0 = sample_alone(stage, stage.config.sample, Cond.empty(HELD), noise, (HELD, 3, 16, 16))
    samples = stage.space.store(x0)
    save_picture(make_grid(samples, nrow=16, pad_value=255), path)
    return {"loss": loss, "swd": distance(images[:HELD], samples)}


def distance(real: torch.Tensor, generated: torch.Tensor) -> float:
    """Sliced Wasserstein distance, mean over 8 seeds of patches."""
    from cascade.judge.wasserstein import sliced_wasserstein

    seeds = (torch.Generator().manual_seed(k) for k in range(8))
    return sum(sliced_wasserstein(real, generated, seed)[0] for seed in seeds) / 8


if __name__ == "__main__":
    run(main)
