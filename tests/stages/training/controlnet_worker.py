"""The updates of a control net under the local engine and under DeepSpeed, in a process of its own; test_controlnet.py starts it.

python -m tests.stages.training.controlnet_worker OUT
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from stages.training.controlled import beside
from stages.training.deepspeed_engine import DeepSpeedEngine
from stages.training.deepspeed_settings import DeepSpeedSettings
from stages.training.ema import Ema
from stages.training.engine import Engine, LocalEngine, weights_in
from tests.stages.controlled import base_bundle, controlled, controlled_config, mapped_batch

CPU = torch.device("cpu")
ZEROS = (0, 1, 2, 3)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    config = beside(controlled_config(base_bundle(out / "base"), lr=1e-2))
    report = {"local": run(LocalEngine(controlled(config), config.train, CPU), config, out / "local")}
    for zero in ZEROS:
        settings = DeepSpeedSettings(zero=zero)
        engine = DeepSpeedEngine(controlled(config), config.train, CPU, micro_batch=4, settings=settings)
        report[f"zero{zero}"] = run(engine, config, out / f"zero{zero}")
    (out / "report.json").write_text(json.dumps(report))


def run(engine: Engine, config, out: Path) -> list[float]:
    """The losses of three updates; their weights and average in files; the state read back and loaded again in between."""
    ema, losses = Ema(controlled(config), (16,)), []
    for k in range(3):
        update = engine.update([mapped_batch(4, start=8 * k), mapped_batch(4, start=8 * k + 4)], 1e-2)
        losses.append(update.loss if update.applied else float("nan"))
        with engine.whole():
            ema.update(engine.stage, nimg=8 * k + 8, batch=8)
        engine.load(engine.state())
    out.mkdir(exist_ok=True)
    for name, tensors in (("weights", weights_in(engine.state())), ("average", ema.copies()[16])):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, out / f"{name}.safetensors")
    return losses


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's threads are of no interest here
