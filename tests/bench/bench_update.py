"""A training update of our U-Net against diffusers' UNet2DModel of the same widths and parameter count.

    python tests/bench/bench_update.py             the numbers of the README: precisions, layouts, eager
    python tests/bench/bench_update.py --compile   the same, and compiled: minutes more
    python tests/bench/bench_update.py --quick     does it work, and roughly how fast
    python tests/bench/bench_update.py --device cuda    larger networks, compiled too, with MFU; the first table has diffusers
                                                        as it comes: fp32 or bf16, contiguous, eager

First every setting of each, in pairs; then the best of ours against the best of theirs, A B A B, each in a process of its own that
lives through the whole duel. The ratio is the median over pairs of theirs / ours: what disturbs the machine disturbs both. The
wall's clock decides; on a busy machine believe the ratio of processor times, with --threads 1.
"""

import os
from itertools import product
from statistics import median, quantiles
from typing import Annotated

import torch
import typer
from contenders import BUILD, GPU_TASKS, TASKS, Setting, Task, Times, Worker
from machine import describe, table
from torch.utils.flop_counter import FlopCounterMode

from data.batch import Cond
from data.cli import run
from stages.tools.cost import BACKWARD, mfu, peak_flops

TOLERANCE = 0.02  # of the parameter count


def main(
    quick: Annotated[bool, typer.Option(help="bf16 and channels_last alone, few repeats")] = False,
    compile: Annotated[bool, typer.Option(help="compiled settings as well")] = False,
    threads: Annotated[int, typer.Option(help="threads of each; 0: one a core")] = 0,
    rounds: Annotated[int, typer.Option(help="pairs of the duel; 0: 30, quick 6")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    only: Annotated[str, typer.Option(help="one task: base or sr")] = "",
) -> None:
    """Print a table and a ratio for each task."""
    threads = threads or len(os.sched_getaffinity(0))
    rounds = rounds or (6 if quick else 30)
    print(f"{describe('diffusers')}; {threads} threads")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no GPU is visible to torch")
    for task in GPU_TASKS if device == "cuda" else TASKS:
        if only in ("", task.name):
            duel(task, settings(quick, compile or device == "cuda"), threads, rounds, 2 if quick else 5, device)


def settings(quick: bool, compile: bool) -> list[Setting]:
    precisions, layouts = (("bf16",), (True,)) if quick else (("bf16", "fp32"), (True, False))
    return [
        Setting(precision=precision, channels_last=layout, compiled=compiled)
        for precision, layout, compiled in product(precisions, layouts, (False, True) if compile else (False,))
    ]


def duel(task: Task, allowed: list[Setting], threads: int, rounds: int, search: int, device: str) -> None:
    """Finds the best setting of each, lets them compete, prints what came out."""
    sizes = {peer: size_of(peer, task) for peer in BUILD}
    ratio = sizes["ours"][0] / sizes["diffusers"][0]
    assert abs(ratio - 1) <= TOLERANCE, f"{task.name}: our parameters are {ratio:.3f} of theirs"

    found: dict[str, dict[Setting, float]] = {peer: {} for peer in BUILD}
    for setting in allowed if len(allowed) > 1 else []:
        for peer, times in paired(task, dict.fromkeys(BUILD, setting), threads, search, device)[0].items():
            found[peer][setting] = median(each.cpu if threads == 1 else each.wall for each in times)
            print(f"  {task.name}: {peer}, {setting}: {found[peer][setting]:.0f} ms", flush=True)
    best = {peer: min(allowed, key=found[peer].get) if found[peer] else allowed[0] for peer in BUILD}
    times, memory = paired(task, best, threads, rounds, device)

    print(
        f"{task.name}: {task.size} px, batch {task.batch}, widths {task.widths}, self-attention at levels {task.attention}"
    )
    rows = [
        (
            peer,
            str(best[peer]),
            f"{median(each.wall for each in times[peer]):.0f}",
            f"{median(each.cpu for each in times[peer]):.0f}",
            f"{sizes[peer][0] / 1e6:.2f} M",
            f"{task.batch * sizes[peer][1] / 1e9:.1f} G",
            f"{memory[peer]['peak_mb']} MB",
            f"{memory[peer]['peak_mb'] - memory[peer]['imported_mb']} MB",
        )
        for peer in BUILD
    ]
    print(
        table(
            ("", "setting", "ms", "processor ms", "parameters", "forward FLOP", "peak RSS", "of it by training"), rows
        )
    )
    wall = [theirs.wall / ours.wall for ours, theirs in zip(times["ours"], times["diffusers"], strict=True)]
    cpu = [theirs.cpu / ours.cpu for ours, theirs in zip(times["ours"], times["diffusers"], strict=True)]
    print(f"theirs / ours, {rounds} pairs: {spread(wall)}; processor time {spread(cpu)}")
    if peak := peak_flops(torch.device(device)):
        for peer in BUILD:
            rate = 1000 * task.batch / median(each.wall for each in times[peer])
            print(f"{peer}: {rate:.0f} img/s, MFU {mfu(rate, BACKWARD * sizes[peer][1], peak):.1%}")
    print(f"target {task.target}: {'reached' if median(wall) >= task.target else 'MISSED'}", flush=True)


def spread(ratios: list[float]) -> str:
    low, middle, high = quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def paired(
    task: Task, chosen: dict[str, Setting], threads: int, rounds: int, device: str
) -> tuple[dict[str, list[Times]], dict]:
    """Each update's times by peer, taken in turns, and the memory of each process."""
    with (
        Worker("ours", task, chosen["ours"], threads, device) as ours,
        Worker("diffusers", task, chosen["diffusers"], threads, device) as theirs,
    ):
        times: dict[str, list[Times]] = {"ours": [], "diffusers": []}
        for _ in range(rounds):
            times["ours"].append(ours.update())
            times["diffusers"].append(theirs.update())
        return times, {"ours": ours.close(), "diffusers": theirs.close()}


def size_of(peer: str, task: Task) -> tuple[int, int]:
    """Parameters, and FLOPs of one image's forward pass."""
    with torch.device("meta"):
        net = BUILD[peer](task)
        inputs = [torch.empty(1, task.num_in, task.size, task.size), torch.empty(1)]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(*inputs, *([Cond.empty(1, "meta")] if peer == "ours" else []))
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops()


if __name__ == "__main__":
    run(main)
