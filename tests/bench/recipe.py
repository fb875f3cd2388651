"""Recipes beside each other: trains a stage once for each line of a file and judges what it paints of held-out pictures.

    python tests/bench/recipe.py TRIES --out runs/tries [--device cuda] [--jobs 6] [--seconds 300] [--threads 1]

A line of TRIES is a name, a cascade, a stage, its shards, and overrides as train.py takes them, here without "stages.STAGE.":

    sr-lr8  emoji_tiny sr_64 shards/emoji_64 train.lr=0.08 train.batch=8 train.images=7000

Super-resolution: PSNR in dB over bicubic's, of samples and of the one-call mean, and grain (tests/grain.py) of samples. Base: rms
error of x0_hat at sigma 0.5, and grain of samples. Both: validation loss, lr x sqrt(updates), seconds. Nobody starts after
--seconds, and who is not done then is told to stop, saves, and is judged as it is.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import torch
import typer
from machine import describe, table

from data.cli import run

ROOT = Path(__file__).parents[2]
HEAD = (
    "name", "images", "updates", "lr x sqrt(updates)", "val loss", "over bicubic", "mean over bicubic", "error at 0.5", "grain",
    "s",
)  # fmt: skip


def main(
    tries: Annotated[Path, typer.Argument(help="file of lines: NAME CASCADE STAGE SHARDS [KEY=VALUE ...]")],
    out: Annotated[Path, typer.Option(help="folder for the runs and results.json")],
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    jobs: Annotated[int, typer.Option(help="trainings at a time")] = 1,
    threads: Annotated[int, typer.Option(help="threads of each")] = 1,
    seconds: Annotated[float, typer.Option(help="in all")] = 3600.0,
) -> None:
    """Train and judge each line, print the table."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    lines = deque(line.split() for line in tries.read_text().splitlines() if line.strip() and line[0] != "#")
    running: list[subprocess.Popen] = []
    stopped = False
    while lines or running:
        late = time.monotonic() - began > seconds
        if late and not stopped:
            stopped = True
            lines.clear()
            for process in running:
                process.send_signal(signal.SIGTERM)
        while lines and len(running) < jobs:
            name, *rest = lines.popleft()
            command = [sys.executable, __file__, "--one", name, str(out / name), device, *rest]
            environment = os.environ | {
                "OMP_NUM_THREADS": str(threads),
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            }
            log = (out / f"{name}.log").open("w")
            running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        time.sleep(0.2)
        running = [process for process in running if process.poll() is None]
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))]
    (out / "results.json").write_text(json.dumps(results, indent=1))
    print(describe())
    print(table(HEAD, ([shown(result.get(key)) for key in HEAD] for result in results)))


def shown(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def one(name: str, folder: Path, device: str, cascade: str, stage: str, shards: str, *overrides: str) -> None:
    """Trains one recipe in this process, judges it, writes FOLDER/result.json and FOLDER/grid.png."""
    from cascade.config import load_config, stage_of
    from cascade.manifest import write_manifest
    from data.places.address import Access
    from data.read.mixture import parse
    from stages.training.loop import train
    from stages.training.runtime import Runtime

    torch.set_flush_denormal(True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    config = load_config(cascade, [f"stages.{stage}.{each}" for each in overrides])
    wanted = stage_of(config, stage)
    write_manifest(config, folder)
    runtime = Runtime(engine="local", rank=0, world=1, device=torch.device(device))
    began = time.monotonic()
    train(wanted, name=stage, data=parse([shards], Access()), out=folder / stage, runtime=runtime)
    spent = time.monotonic() - began
    lines = [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]
    val = [line["val_loss"] for line in lines if line.get("val_loss") is not None]
    updates = lines[-1]["nimg"] / wanted.train.batch
    result = {
        "name": name,
        "images": lines[-1]["nimg"],
        "updates": round(updates),
        "lr x sqrt(updates)": wanted.train.lr * updates**0.5,
        "val loss": val[-1] if val else None,
        "quartiles": [lines[-1].get(f"loss_q{k}") for k in (1, 2, 3, 4)],
        "s": round(spent),
        "overrides": overrides,
    } | judge(folder, stage, shards, device)
    (folder / "result.json").write_text(json.dumps(result))


@torch.inference_mode()
def judge(folder: Path, stage: str, shards: str, device: str) -> dict[str, float]:
    """What the bundle paints of held-out pictures, against the truth; a grid of it beside."""
    from sr_psnr import mean_psnr
    from torchvision.utils import make_grid

    from cascade.pipeline import Cascade
    from data.batch import to_float, to_uint8
    from data.read.shards import read_split
    from data.resize import downsample
    from stages.kinds.super_res import SuperResStage
    from stages.sampling import conditioned, guided, noise_of, sample_alone
    from stages.training.grid import save_picture
    from tests.grain import grain

    link = Cascade.load(folder, first=stage, last=stage, device=device).links[0]
    model, config = link.stage, link.sidecar.config
    size = (config.resolution,) * 2
    text = config.cond.text.tokens if config.cond.text else 0
    batch = next(read_split(shards, "val", batch=64, resolution=config.resolution, text_tokens=text, limit=64)).to(
        torch.device(device)
    )
    truth = downsample(to_float(batch.image), size)
    draw = noise_of(stage, 0, batch.index, device)
    noise = draw("start", truth.shape)
    if not isinstance(model, SuperResStage):
        sigma = torch.full((len(truth),), 0.5, device=device)
        x0_hat = model.denoise(truth + 0.5 * noise, sigma, batch.cond).x0_hat
        samples = sample_alone(model, link.settings, batch.cond, draw, truth.shape)
        save_picture(to_uint8(make_grid(torch.cat([samples, truth]), nrow=16)), folder / "grid.png")
        return {"error at 0.5": (x0_hat - truth).square().mean().sqrt().item(), "grain": grain(samples)}
    low_res = to_float(to_uint8(downsample(truth, (model.config.low_res,) * 2)))
    settings = link.settings.model_copy(update={"guidance_scale": 1.0, "aug_sigma": 0.0})
    cond = conditioned(model, batch.cond, low_res, settings, draw)
    samples = sample_alone(model, settings, cond, draw, truth.shape)
    bicubic = model.enlarge(low_res)
    mean = guided(model, settings, cond)(
        bicubic + settings.sigma_max * noise, torch.full((len(truth),), settings.sigma_max, device=device)
    )
    base = mean_psnr(bicubic, truth)
    save_picture(to_uint8(make_grid(torch.cat([bicubic[:12], samples[:12], truth[:12]]), nrow=12)), folder / "grid.png")
    return {
        "bicubic": base,
        "over bicubic": mean_psnr(samples, truth) - base,
        "mean over bicubic": mean_psnr(mean.clamp(-1, 1), truth) - base,
        "grain": grain(samples),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        name, folder, *rest = sys.argv[2:]
        one(name, Path(folder), *rest)
    else:
        run(main)
