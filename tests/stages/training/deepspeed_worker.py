"""One process of a DeepSpeed job, started by test_deepspeed.py: trains the tiny base stage and writes down what happened.

    python -m tests.stages.training.deepspeed_worker OUT       (or under torchrun)

For ZeRO 0 and 1: five updates; the last two again after a save and a load; a NaN gradient and a NaN loss on the last rank only.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from stages.base import BaseStage
from stages.training.engine import DeepSpeedEngine, NonFiniteError, Update
from stages.training.loop import split
from tests.stages.training.updates import BATCH, MICRO, NUM, build, config, global_batch, lr_of

SAVE_AT = 3


def main(out: Path) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    report = {}
    for zero in (0, 1):
        report[f"zero{zero}"] = run(start(zero), out / f"zero{zero}")
        for gradient in (True, False):
            report[f"zero{zero}"][f"nan_{'gradient' if gradient else 'loss'}"] = poisoned(
                start(zero), gradient=gradient
            )
    if dist.get_rank() == 0:
        (out / "report.json").write_text(json.dumps(report))
    dist.barrier()


def start(zero: int) -> DeepSpeedEngine:
    return DeepSpeedEngine(build(), config(), torch.device("cpu"), zero=zero, micro_batch=MICRO)


def run(engine: DeepSpeedEngine, out: Path) -> dict[str, object]:
    updates = []
    for k in range(NUM):
        if k == SAVE_AT:
            engine.save(out / "checkpoint")
            engine.barrier()
        updates.append(update(engine, k))
    weights = copy(engine.stage)
    engine.load(out / "checkpoint")
    again = [update(engine, k) for k in range(SAVE_AT, NUM)]
    same = all(torch.equal(tensor, weights[name]) for name, tensor in copy(engine.stage).items())
    if engine.rank == 0:
        save_file(weights, out / "weights.safetensors")
    return {
        "loss": [each.loss for each in updates],
        "grad_norm": [each.grad_norm for each in updates],
        "same_after_load": same and [each.loss for each in again] == [each.loss for each in updates[SAVE_AT:]],
        "rank": engine.rank,
        "world": engine.world,
    }


def update(engine: DeepSpeedEngine, k: int) -> Update:
    share = BATCH // engine.world
    rows = slice(engine.rank * share, (engine.rank + 1) * share)
    return engine.update(split(global_batch(k)[rows], MICRO), lr_of(k))


def poisoned(engine: DeepSpeedEngine, *, gradient: bool) -> str:
    """What an update does when the last rank alone meets a NaN: in one gradient, or in its loss."""
    stage = engine.stage
    before = copy(stage)
    if engine.rank == engine.world - 1:
        if gradient:
            stage.net.conv_in.weight.register_hook(lambda grad: grad * torch.nan)
        else:
            stage.register_forward_hook(lambda _stage, _inputs, losses: replace(losses, loss=losses.loss * torch.nan))
    try:
        update(engine, 1)
        told = "went on"
    except NonFiniteError:
        told = "refused"
    moved = [name for name, tensor in copy(stage).items() if not torch.equal(tensor, before[name])]
    return f"{told}, {len(moved)} weights moved"


def copy(stage: BaseStage) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in stage.state_dict().items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's threads are of no interest here
