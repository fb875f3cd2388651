"""The number of rows of a network call: measured at the start, on the device, with the networks as they will run.

Small stages are bound by launch overhead and need large batches; large ones are bound by arithmetic or cache, and beyond some size
a larger batch only adds latency.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from stages.ask import Ask
from stages.conditions.likely import likely_cond
from stages.diffusion.samplers import Query
from stages.memory import is_memory_error
from stages.sampling import answer

from .host import Host

SIZES = (1, 2, 4, 8, 16, 32)
GAIN = 1.05  # a larger batch must have at least this many times the throughput of the best smaller one
TRIES = 5
GRAPHS = 4096  # limit of recompilations: Dynamo counts all stages together, since their networks share one code
_ALONE = threading.RLock()  # one device after the other: Dynamo's compile stance holds for all threads


def measured(hosts: Sequence[Host]) -> dict[str, int]:
    """Best rows per call by host: the smallest of SIZES that larger ones do not exceed by GAIN in images a second, as far as
    memory allows."""
    with _ALONE:
        return {host.name: best_batch(host) for host in hosts}


def compiled(hosts: Sequence[Host]) -> dict[str, int]:
    """Compile the networks in place for the SIZES that it measures; returns the same as `measured`. Shapes that come later
    (pictures of another size) run uncompiled, since compiling them would block all other requests.

    On a GPU each size becomes a CUDA graph that belongs to the calling thread: the same thread must do the sampling, with calls
    padded to powers of two (`Engine(buckets=True)`).
    """
    with _ALONE:
        limits = torch._dynamo.config  # of this thread
        limits.recompile_limit = limits.accumulated_recompile_limit = GRAPHS
        torch.compiler.set_stance("default")
        for host in hosts:
            on_gpu = torch.device(host.device).type == "cuda"
            host.stage.net.compile(mode="reduce-overhead" if on_gpu else None, dynamic=not on_gpu)
        batches = measured(hosts)
        torch.compiler.set_stance("eager_on_recompile")
        return batches


def preparing(compile_: bool | None, *, on_gpu: bool) -> tuple[Callable[[Sequence[Host]], dict[str, int]], bool]:
    """The function that prepares and measures networks, and whether calls must be padded to powers of two. compile_: whether to
    compile; None: only on GPUs."""
    compiles = on_gpu if compile_ is None else compile_
    return (compiled if compiles else measured), compiles and on_gpu


def best_batch(host: Host) -> int:
    """The best number of rows for one host; stops after two sizes in a row without a gain."""
    best, best_rate, worse = 1, 0.0, 0
    for rows, seconds in timed(host):
        if rows / seconds > best_rate * GAIN:
            best, best_rate, worse = rows, rows / seconds, 0
        else:
            worse += 1
        if worse == 2:  # trying larger ones costs memory: a compiled network keeps some for each size
            break
    return best


@torch.inference_mode()
def timed(host: Host) -> Iterator[tuple[int, float]]:
    """(rows, seconds of a call) for each of SIZES until memory runs out; the minimum of TRIES calls after a warm-up."""
    for rows in SIZES:
        try:
            seconds = [call_s(host, rows) for _ in range(TRIES + 1)]
        except Exception as error:
            if not is_memory_error(error):
                raise
            break
        yield rows, min(seconds[1:])
    else:
        return
    torch.cuda.empty_cache()  # only now: the exception kept tensors alive


def call_s(host: Host, rows: int) -> float:
    """Seconds of one network call with so many rows."""
    ask = random_ask(host, rows)
    start = time.perf_counter()
    answer(host.stage, [ask], device=host.device)[0].x0_hat.sum().item()
    return time.perf_counter() - start


def random_ask(host: Host, rows: int) -> Ask:
    """An ask of random noise at sigma 1, with a condition like that of users: text or class if the stage takes one."""
    config = host.stage.config
    x = torch.randn(rows, *config.shape(config.gives), device=host.device)
    return Ask(query=Query(x, torch.ones(rows, device=host.device)), cond=likely_cond(config, x))
