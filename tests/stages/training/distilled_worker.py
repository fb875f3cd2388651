"""The updates of a student under the local engine and under DeepSpeed, in a process of their own; started by test_distilled.py.

python -m tests.stages.training.distilled_worker OUT
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.config import BaseConfig
from stages.training.deepspeed_engine import DeepSpeedEngine
from stages.training.deepspeed_settings import DeepSpeedSettings
from stages.training.ema import Ema
from stages.training.engine import Engine, LocalEngine, weights_in
from tests.stages.progressive import progressive, student, student_config
from tests.stages.tiny import shapes_batch

CPU = torch.device("cpu")
ZEROS = (0, 2, 3)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with progressive():
        config = student_config(out / "teacher")
        report = {"local": run(LocalEngine(student(config), config.train, CPU), config, out / "local")}
        for zero in ZEROS:
            settings = DeepSpeedSettings(zero=zero)
            engine = DeepSpeedEngine(student(config), config.train, CPU, micro_batch=4, settings=settings)
            report[f"zero{zero}"] = run(engine, config, out / f"zero{zero}")
    (out / "report.json").write_text(json.dumps(report))


def run(engine: Engine, config: BaseConfig, out: Path) -> list[float]:
    """The losses of three updates; their weights and average in files."""
    ema, losses = Ema(student(config), (16,)), []
    for k in range(3):
        update = engine.update([shapes_batch(4, 8, start=8 * k), shapes_batch(4, 8, start=8 * k + 4)], 1e-2)
        losses.append(update.loss if update.applied else float("nan"))
        with engine.whole():
            ema.update(engine.stage, nimg=8 * k + 8, batch=8)
    save(weights_in(engine.state()), out, "weights")
    save(ema.copies()[16], out, "average")
    return losses


def save(tensors: dict[str, Tensor], out: Path, name: str) -> None:
    out.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, out / f"{name}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's threads are of no interest here
