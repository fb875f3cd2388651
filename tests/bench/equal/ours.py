"""The worker of this project: the stages of the preset emoji_tiny without their text, trained by the rule of stages/README.md."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import torch
from clock import Budget
from torch import Tensor
from worker import Request, Trained, num_parameters, run_worker

from cascade.config import CascadeConfig, load_config, stage_of
from cascade.events import StageFinished
from cascade.manifest import write_manifest
from cascade.pipeline import Cascade
from cascade.request import Request as Sampling
from cascade.train.costs import random_batch
from data.places.address import Access
from data.read.mixture import parse
from stages.build import build_stage
from stages.config import StageConfig
from stages.training.engine import LocalEngine
from stages.training.loop import train
from stages.training.runtime import Options, Runtime
from stages.training.signals import Stopped, StopSignals

STAGES = {"base": "base_16", "sr": "sr_64"}
CPU = torch.device("cpu")
KEPT = 0.95  # of the budget is planned for updates; the rest is for reading, averages and the save
TURN = 3.0  # lr x sqrt(updates)
WARM_UPDATES = 60
HALF_LIFE = 0.06  # of the run
NEVER = 10**9


def configured(part: str, images: int) -> CascadeConfig:
    """emoji_tiny without text, the stage of this part for a run of so many images."""
    name = STAGES[part]
    batch = stage_of(load_config("emoji_tiny"), name).train.batch
    images = max(batch, images // batch * batch)
    rate = min(0.08, max(0.02, TURN / (images / batch) ** 0.5))
    settings = {
        "images": images,
        "lr": rate,
        "warmup": min(WARM_UPDATES * batch, images // 4),
        "ema": f"[{max(batch, round(HALF_LIFE * images))}]",
        "save_every": NEVER,
        "grid_every": NEVER,
        "val_images": 0,
        "workers": 0,  # so that reading counts
    }
    return load_config(
        "emoji_tiny",
        [
            "stages.base_16.cond.text=null",
            "stages.base_16.net.cross_attention=[]",
            "stages.base_16.sample.guidance_scale=1",
            *(f"stages.{name}.train.{key}={value}" for key, value in settings.items()),
        ],
    )


def images_in(config: StageConfig, budget_s: float) -> int:
    """How many images this machine trains on in so many CPU seconds, by a few updates (which are not counted)."""
    stage = build_stage(config)
    stage.set_precision(config.train.precision)
    engine, batch = LocalEngine(stage, config.train, CPU), random_batch(config, config.train.batch)
    engine.update([batch], 0.0)
    probe, updates = Budget(min(10.0, budget_s / 8)), 0
    while updates < 3 or not probe.is_over:
        engine.update([batch], config.train.lr)
        updates += 1
    return int(KEPT * budget_s / probe.used_s * updates * config.train.batch)


def train_stage(request: Request) -> Trained:
    name, out = STAGES[request.part], Path(request.out)
    config = configured(request.part, request.images or 1000)
    if not request.images:
        num = images_in(stage_of(config, name), request.budget_s)
        config = configured(request.part, num)
    wanted = stage_of(config, name)
    wanted = wanted.model_copy(update={"train": wanted.train.model_copy(update={"seed": request.seed})})
    shutil.rmtree(out / name, ignore_errors=True)  # what an interrupted part left has another length
    write_manifest(config, out)
    budget = Budget(float("inf") if request.images else request.budget_s)
    threading.Thread(target=stop_when_over, args=(budget,), daemon=True).start()
    runtime = Runtime(engine="local", rank=0, world=1, device=CPU)
    signals = StopSignals()
    try:
        train(
            wanted, name=name, data=parse([f"{request.data}/shards"], Access()), out=out / name, runtime=runtime,
            options=Options(signals=signals),
        )  # fmt: skip
    except Stopped:
        print("the budget ended before the planned images")
    link = Cascade.load(out, first=name, last=name).links[0]
    return Trained(
        images=link.sidecar.provenance.nimg,
        cpu_s=budget.used_s,
        parameters=num_parameters(build_stage(wanted)),
        precision=wanted.train.precision,
    )


def stop_when_over(budget: Budget) -> None:
    """Ask the training to save and stop once the budget is used."""
    while not budget.is_over:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def paint(request: Request) -> Tensor:
    cascade = Cascade.load(request.out)
    sampling = Sampling(num=request.num, seed=request.seed, batch=40)
    parts = [event.images for event in cascade.sample(sampling) if isinstance(event, StageFinished) and event.last]
    return torch.cat(parts).float() / 127.5 - 1


if __name__ == "__main__":
    run_worker(train_stage, paint)
