"""How many rows a network call should have: measured on the device at the start, for the networks as they will run.

Small stages are bound by the start of each operation and want large batches; large ones are bound by arithmetic or by the cache,
and from some size on a larger batch only makes everybody wait.
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
GAIN = 1.05  # a batch twice as large must be so much faster an image
TRIES = 5
GRAPHS = 4096  # Dynamo counts those of all stages together, for their networks are one piece of code
_ALONE = threading.RLock()  # one device after the other: whether something compiles is said for all threads at once


def measured(hosts: Sequence[Host]) -> dict[str, int]:
    """Rows of a call by stage: the size that is fastest an image, where larger ones are not faster by GAIN; where memory ends, the
    size before."""
    with _ALONE:
        return {host.name: best_batch(host) for host in hosts}


def compiled(hosts: Sequence[Host]) -> dict[str, int]:
    """Compiles the networks in place, meets the sizes that may be best, and says the same as `measured`. Shapes that come later
    (pictures of another size) run as they are: compiling them would hold everybody up.

    On a GPU each size becomes a CUDA graph, in memory of the thread that calls this: it must be the one that will sample, and its
    calls must come in powers of two (`Engine`'s buckets).
    """
    with _ALONE:
        limits = torch._dynamo.config  # of this thread
        limits.recompile_limit = limits.accumulated_recompile_limit = GRAPHS
        torch.compiler.set_stance("default")
        for host in hosts:
            graphs = torch.device(host.device).type == "cuda"
            host.stage.net.compile(mode="reduce-overhead" if graphs else None, dynamic=not graphs)
        found = measured(hosts)
        torch.compiler.set_stance("eager_on_recompile")
        return found


def preparing(compile_: bool | None, *, on_gpu: bool) -> tuple[Callable[[Sequence[Host]], dict[str, int]], bool]:
    """What makes networks ready and measures them, and whether calls must then come in powers of two. compile_: None is on GPUs."""
    compiles = on_gpu if compile_ is None else compile_
    return (compiled if compiles else measured), compiles and on_gpu


def best_batch(host: Host) -> int:
    best, best_rate, worse = 1, 0.0, 0
    for rows, seconds in timed(host):
        if rows / seconds > best_rate * GAIN:
            best, best_rate, worse = rows, rows / seconds, 0
        else:
            worse += 1
        if worse == 2:  # larger ones would only take memory: each size of a compiled network keeps its own
            break
    return best


@torch.inference_mode()
def timed(host: Host) -> Iterator[tuple[int, float]]:
    """(rows, seconds of a call) for each size; seconds are the least of a few, after one that warms up. Ends where memory does."""
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
    torch.cuda.empty_cache()  # not before the error, and what it holds, is gone


def call_s(host: Host, rows: int) -> float:
    one = random_ask(host, rows)
    began = time.perf_counter()
    answer(host.stage, [one], device=host.device)[0].x0_hat.sum().item()
    return time.perf_counter() - began


def random_ask(host: Host, rows: int) -> Ask:
    """A query with the conditions that the stage's users give: text or a class where it takes one."""
    config = host.stage.config
    x = torch.randn(rows, *config.shape(config.gives), device=host.device)
    return Ask(query=Query(x, torch.ones(rows, device=host.device)), cond=likely_cond(config, x))
