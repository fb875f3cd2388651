"""Updates of objectives that learn, under the local engine and under DeepSpeed at ZeRO 2, in processes of their own; started by
test_objectives.py with one process or two.

python -m tests.stages.training.objectives_worker OUT      (or under torchrun)
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from stages.build import build_stage
from stages.training.deepspeed_engine import DeepSpeedEngine
from stages.training.deepspeed_settings import DeepSpeedSettings
from stages.training.engine import Engine, LocalEngine, State
from tests.stages.objectives.test_denoising import with_objective
from tests.stages.tiny import base_config, shapes_batch, wake

CPU, BATCH = torch.device("cpu"), 8
CONFIG = with_objective(base_config(), kind="hybrid", importance={"bins": 4}, weight={"kind": "uncertainty", "bins": 4})


def main(out: Path) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    local = LocalEngine(stage(), CONFIG.train, CPU)
    expected = [update(local, k, 0, 1) for k in range(4)]
    first = deepspeed()
    rank, world = first.rank, first.world
    losses = [update(first, k, rank, world) for k in range(2)]
    saved = first.state()
    losses += [update(first, k, rank, world) for k in (2, 3)]
    whole = first.state()
    box = [saved]
    dist.broadcast_object_list(box)
    second = deepspeed()
    second.load(box[0])
    again = [update(second, k, rank, world) for k in (2, 3)]
    resumed = second.state()
    if rank == 0:
        report = {"local": expected, "zero2": losses, "again": again, "learned": sorted(learned(whole))}
        report["resumed"] = all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
        ours, theirs = learned(local.state()), learned(whole)
        report["apart"] = max(((ours[name] - theirs[name]).abs() / ours[name].abs()).max().item() for name in ours)
        (out / "report.json").write_text(json.dumps(report))
    dist.barrier()


def stage():
    torch.manual_seed(0)
    return wake(build_stage(CONFIG))


def deepspeed() -> DeepSpeedEngine:
    return DeepSpeedEngine(stage(), CONFIG.train, CPU, micro_batch=4, settings=DeepSpeedSettings(zero=2))


def update(engine: Engine, k: int, rank: int, world: int) -> float:
    """One update over the global batch, and what the objective learns from it."""
    num = BATCH // world
    start = BATCH * k + num * rank
    done = engine.update([shapes_batch(4, 8, start=start + offset) for offset in range(0, num, 4)], 1e-2)
    assert done.applied
    engine.objective.learn(engine.stage, done.losses, engine.total)
    return done.loss


def learned(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.startswith("objective/")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's threads are of no interest here
