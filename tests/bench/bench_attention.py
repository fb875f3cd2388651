"""Attention as our networks compute it on a CPU (`attend`) against torch's fused kernel, forward and backward.

    python tests/bench/bench_attention.py [--quick]

At the shapes of the base stage of the emoji cascade: 64 pixels among themselves, 64 and 16 pixels to 17 text tokens with a mask.
`attend` spells the softmax out; this bench is the reason, and says when the reason is gone.
"""

import os
import time
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from machine import describe, table
from torch import Tensor

from data.cli import run
from stages.nets.blocks import attend

BATCH, DIM = 32, 64
SHAPES = (
    (2, 64, 64),
    (2, 64, 17),
    (3, 16, 17),
    (1, 256, 256),
)  # heads, queries, keys; the last: where fused should win
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROUNDS, REPEATS = 15, 5


def main(
    quick: Annotated[bool, typer.Option(help="few repeats")] = False,
    threads: Annotated[int, typer.Option(help="0: one a core")] = 0,
) -> None:
    """Print milliseconds of both, and their ratio."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    print(f"{describe()}; {torch.get_num_threads()} threads, batch {BATCH}, head dimension {DIM}")
    rows = []
    for (heads, queries, keys), (name, dtype) in product(SHAPES, PRECISIONS.items()):
        ours, fused = compare(heads, queries, keys, dtype, rounds=3 if quick else ROUNDS)
        ratio = median(b / a for a, b in zip(ours, fused, strict=True))
        shape = f"{heads} heads, {queries} x {keys}"
        rows.append((shape, name, f"{median(ours):.2f}", f"{median(fused):.2f}", f"{ratio:.2f}"))
    print(table(("shape", "dtype", "attend ms", "fused ms", "fused / attend"), rows))


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def compare(heads: int, queries: int, keys: int, dtype: torch.dtype, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of forward and backward, ours and the fused kernel's in turns; processor time where there is one thread."""
    q = torch.randn(BATCH, heads, queries, DIM, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(BATCH, heads, keys, DIM, dtype=dtype, requires_grad=True) for _ in range(2))
    mask = None if keys == queries else torch.arange(keys) < torch.randint(1, keys + 1, (BATCH, 1, 1, 1))
    gradient = torch.randn_like(q)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(attend(q, k, v, mask), fused(q, k, v, mask), rtol=tolerance, atol=tolerance)
    times: dict[Callable[..., Tensor], list[float]] = {attend: [], fused: []}
    for _ in range(rounds + 1):
        for function, found in times.items():
            found.append(milliseconds(lambda: function(q, k, v, mask).backward(gradient)))  # noqa: B023
    return times[attend][1:], times[fused][1:]


def milliseconds(call: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(REPEATS):
        call()
    return 1000 * (clock() - start) / REPEATS


if __name__ == "__main__":
    run(main)
