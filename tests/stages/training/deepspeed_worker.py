"""One process of a DeepSpeed job, started by test_deepspeed.py: trains the tiny base stage and writes down what happened.

    python -m tests.stages.training.deepspeed_worker OUT [STATE]      (or under torchrun)

For every ZeRO stage, with and without offload: two updates with all that a DeepSpeed file may measure; five updates, the last
two again after a save and a load; the same two from STATE, which the local engine wrote; averages; a NaN gradient and a NaN
loss on the last rank only; and an update in fp16.
"""

import gc
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from stages.training.deepspeed_engine import DeepSpeedEngine
from stages.training.deepspeed_settings import DeepSpeedSettings
from stages.training.ema import Ema
from stages.training.engine import State, Update
from stages.training.loop import split
from tests.stages.training.updates import BATCH, HALF_LIFE, MICRO, NUM, build, config, global_batch, lr_of

SAVE_AT = 3
MEASURED = {
    "wall_clock_breakdown": True,
    "memory_breakdown": True,
    "flops_profiler": {"enabled": True, "profile_step": 1, "detailed": False},
    "comms_logger": {"enabled": True, "verbose": False, "prof_all": True},
}
KINDS = {
    f"zero{zero}{'_offload' * offload}": (zero, offload) for offload in (False, True) for zero in range(offload, 4)
}


def main(out: Path, local: Path) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    report = {}
    for kind, (zero, offload) in KINDS.items():
        (out / kind).mkdir(exist_ok=True)
        measured = start(zero, offload, user=MEASURED)
        gc.freeze()  # DeepSpeed collects garbage at each line about memory, 24 times: all that is imported is none
        losses = [update(measured, k).loss for k in range(2)]
        gc.unfreeze()
        report[kind] = run(start(zero, offload), out / kind, load_file(local)) | {"loss_measured": losses}
        for where in ("gradient", "loss"):
            report[kind][f"nan_{where}"] = poisoned(start(zero, offload), where)
        report[kind]["fp16"] = overflow(start(zero, offload, precision="fp16"))
    if dist.get_rank() == 0:
        (out / "report.json").write_text(json.dumps(report))
    dist.barrier()


def start(zero: int, offload: bool, *, user: dict[str, object] | None = None, **changed: object) -> DeepSpeedEngine:
    settings = config().model_copy(update=changed)
    stage = build()
    stage.set_precision(settings.precision)
    engine = DeepSpeedEngine(
        stage,
        settings,
        torch.device("cpu"),
        micro_batch=MICRO,
        settings=DeepSpeedSettings(zero=zero, offload=offload, user=user),
    )
    return engine


def run(engine: DeepSpeedEngine, out: Path, local: State) -> dict[str, object]:
    ema = Ema(build(), (HALF_LIFE,))
    updates, saved = [], {}
    for k in range(NUM):
        if k == SAVE_AT:
            saved = shared(engine, engine.state(), out / "state.safetensors")
        updates.append(update(engine, k))
        with engine.whole():
            ema.update(engine.stage, nimg=(k + 1) * BATCH, batch=BATCH)
    end = engine.state()
    if engine.rank == 0:
        save_file(end, out / "end.safetensors")
        save_file(ema.copies()[HALF_LIFE], out / "ema.safetensors")
    engine.load(saved)
    again = [update(engine, k) for k in range(SAVE_AT, NUM)]
    same = equal(engine.state(), end) and [each.loss for each in again] == [each.loss for each in updates[SAVE_AT:]]
    engine.load(local)
    loaded = equal(engine.state(), local if engine.rank == 0 else {})
    return {
        "loss": [each.loss for each in updates],
        "grad_norm": [each.grad_norm for each in updates],
        "same_after_load": same,
        "local_state_arrived": loaded,
        "loss_from_local": [update(engine, k).loss for k in range(SAVE_AT, NUM)],
        "agreed": engine.any(engine.rank == 0, False, engine.rank == engine.world - 1),
        "total": engine.total(torch.tensor([1.0, engine.rank])).tolist(),
        "rank": engine.rank,
        "world": engine.world,
    }


def shared(engine: DeepSpeedEngine, state: State, path: Path) -> State:
    """What rank 0 has, for all."""
    if engine.rank == 0:
        save_file(state, path)
    engine.barrier()
    return load_file(path)


def update(engine: DeepSpeedEngine, k: int) -> Update:
    share = BATCH // engine.world
    rows = slice(engine.rank * share, (engine.rank + 1) * share)
    return engine.update(split(global_batch(k)[rows], MICRO), lr_of(k))


def poisoned(engine: DeepSpeedEngine, where: str) -> str:
    """What an update does when the last rank alone meets a NaN, in one gradient or in its loss; and the update after it."""
    stage, before = engine.stage, engine.state()
    handle = None
    if engine.rank == engine.world - 1:
        if where == "gradient":
            handle = stage.net.conv_in.weight.register_hook(lambda grad: grad * torch.nan)
        else:
            handle = stage.register_forward_hook(
                lambda _stage, _in, losses: losses._replace(loss=losses.loss * torch.nan)
            )
    told = "applied" if update(engine, 1).applied else "skipped"
    moved = "nothing moved" if equal(engine.state(), before) else "moved"
    if handle:
        handle.remove()
    return f"{told}, {moved}, then {'applied' if update(engine, 1).applied else 'skipped'}"


def overflow(engine: DeepSpeedEngine) -> list[object]:
    """In half precision: an update at a loss scale that fits, and one at a scale that overflows; the scale after each."""
    found: list[object] = []
    for scale in (2.0**8, 2.0**120):
        engine.scaler.scale = scale
        found += [update(engine, 1).applied, engine.scaler.scale]
    return found


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's threads are of no interest here
