"""What the workers share that compare the local engine with DeepSpeed for stages which train some of their weights only."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from data.batch import Batch
from stages.config import TrainConfig
from stages.stage import Stage
from stages.training.deepspeed_engine import DeepSpeedEngine
from stages.training.deepspeed_settings import DeepSpeedSettings
from stages.training.ema import Ema
from stages.training.engine import Engine, LocalEngine, weights_in

CPU = torch.device("cpu")


def compare(
    build: Callable[[], Stage],
    config: TrainConfig,
    micro_batch: Callable[[int], Batch],
    out: Path,
    *,
    zeros: Sequence[int],
    is_reloaded: bool = False,
) -> None:
    """Write the losses of three updates of either engine, DeepSpeed's at each of `zeros`, to OUT/report.json, and their weights and
    average beside it. micro_batch: four images from a number on. is_reloaded: the state is read back and loaded after each."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)

    def updated(engine: Engine, folder: Path) -> list[float]:
        ema, losses = Ema(build(), (16,)), []
        for k in range(3):
            update = engine.update([micro_batch(8 * k), micro_batch(8 * k + 4)], 1e-2)
            losses.append(update.loss if update.applied else float("nan"))
            with engine.whole():
                ema.update(engine.stage, nimg=8 * k + 8, batch=8)
            if is_reloaded:
                engine.load(engine.state())
        folder.mkdir(exist_ok=True)
        for name, tensors in (("weights", weights_in(engine.state())), ("average", ema.copies()[16])):
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors")
        return losses

    report = {"local": updated(LocalEngine(build(), config, CPU), out / "local")}
    for zero in zeros:
        engine = DeepSpeedEngine(build(), config, CPU, micro_batch=4, settings=DeepSpeedSettings(zero=zero))
        report[f"zero{zero}"] = updated(engine, out / f"zero{zero}")
    (out / "report.json").write_text(json.dumps(report))
