"""What a cluster's machinery costs on one process: a DeepSpeed ZeRO 0 update beside the local engine's, and a save's stall.

    python tests/bench/bench_training.py

The base stage of the preset `emoji` at its own batch. Updates in turns, A B A B, medians of 20 pairs; saves in turns, 7 pairs: in
the background as training does it, and the same written before training goes on.
"""

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch
from machine import describe, table

from cascade.config import load_config, stage_of
from data.batch import Batch, Cond
from stages.build import build_stage
from stages.config import StageConfig
from stages.training.deepspeed_engine import DeepSpeedEngine
from stages.training.deepspeed_settings import DeepSpeedSettings
from stages.training.ema import Ema
from stages.training.engine import LocalEngine
from stages.training.rundir import RunDir
from stages.training.saving import Saver, write_checkpoint

UPDATES, SAVES = 20, 7
MOST_SLOWDOWN, MOST_STALL = 1.05, 0.25
CPU = torch.device("cpu")


def batch_of(config: StageConfig) -> Batch:
    num, text = config.train.batch, config.cond.text
    assert text
    cond = Cond.of(
        torch.ones(num, dtype=torch.bool),
        text=torch.randn(num, text.tokens, text.dim),
        text_mask=torch.ones(num, text.tokens, dtype=torch.bool),
    )
    image = torch.randint(0, 256, (num, 3, config.resolution, config.resolution), dtype=torch.uint8)
    return Batch(image=image, cond=cond, index=torch.arange(num), keys=tuple(map(str, range(num))))


def engines(config: StageConfig) -> dict[str, LocalEngine | DeepSpeedEngine]:
    def stage():
        torch.manual_seed(0)
        made = build_stage(config)
        made.set_precision("bf16")
        return made

    settings = DeepSpeedSettings()
    return {
        "local": LocalEngine(stage(), config.train, CPU),
        "ZeRO 0": DeepSpeedEngine(stage(), config.train, CPU, micro_batch=config.train.batch, settings=settings),
    }


def updates(config: StageConfig) -> LocalEngine:
    batch, both = batch_of(config), engines(config)
    times: dict[str, list[float]] = {name: [] for name in both}
    for k in range(UPDATES + 3):
        for name, engine in both.items():
            started = time.perf_counter()
            engine.update([batch], 1e-3)
            engine.any(False, False, False)
            times[name] += [1000 * (time.perf_counter() - started)] if k >= 3 else []
    print(table(("update", "ms"), [(name, f"{median(each):.0f}") for name, each in times.items()]))
    ratio = median(b / a for a, b in zip(times["local"], times["ZeRO 0"], strict=True))
    print(f"ZeRO 0 / local: {ratio:.3f}; target {MOST_SLOWDOWN}: {'reached' if ratio <= MOST_SLOWDOWN else 'MISSED'}")
    local = both["local"]
    assert isinstance(local, LocalEngine)
    return local


def saves(config: StageConfig, engine: LocalEngine, folder: Path) -> None:
    ema, run, saver = Ema(build_stage(config), config.train.ema), RunDir(folder), Saver(folder)

    stalls: dict[str, list[float]] = {"background": [], "at once": []}
    for k in range(2 * SAVES):
        name = ("background", "at once")[k % 2]
        started = time.perf_counter()
        saver.submit("checkpoint", partial(write_checkpoint, run, k, engine.state(), ema.copies(), keep=1))
        if name == "at once":
            saver.wait()
        stalls[name].append(1000 * (time.perf_counter() - started))
        saver.wait()
    assert not saver.failed, saver.problem
    size = sum(path.stat().st_size for path in run.checkpoints.rglob("*") if path.is_file()) / 1e6
    print(
        table((f"save of {size:.0f} MB", "stall, ms"), [(name, f"{median(each):.0f}") for name, each in stalls.items()])
    )
    ratio = median(a / b for a, b in zip(stalls["background"], stalls["at once"], strict=True))
    print(f"background / at once: {ratio:.2f}; target {MOST_STALL}: {'reached' if ratio <= MOST_STALL else 'MISSED'}")


def main() -> None:
    torch.set_flush_denormal(True)
    config = stage_of(load_config("emoji"), "base_16")
    print(describe("deepspeed"))
    engine = updates(config)
    with tempfile.TemporaryDirectory() as folder:
        saves(config, engine, Path(folder))


if __name__ == "__main__":
    main()
    os._exit(0)  # DeepSpeed's threads are of no interest here
