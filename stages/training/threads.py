"""The number of threads of a training on CPU cores.

Sums over another number of threads differ in their last bits, so a run keeps its initial number; OMP_NUM_THREADS takes precedence.
"""

import os
import sys
from pathlib import Path

import torch

from data.cpus import Use, allowed, fitting
from data.line import say

from .checkpoints import read_object


def settle_threads(run: Path, since: Use) -> None:
    """Set torch's threads for the run directory `run`, and print a note if the number is worth one.

    since: start of the measurement of how busy others keep the cores.
    """
    previous, ranks = recorded(run), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    busy_cores = since.others() if ranks == 1 else 0.0  # the other ranks' load would be counted, too
    suitable = fitting(allowed() // ranks, busy_cores)
    is_set = "OMP_NUM_THREADS" in os.environ
    if not is_set:
        torch.set_num_threads(previous or suitable)
    if os.environ.get("RANK", "0") != "0":
        return
    threads, load = torch.get_num_threads(), f"others keep {busy_cores:.1f} of {allowed()} cores busy"
    if previous and previous != threads:
        tell(
            f"{run} was trained with {previous} threads, OMP_NUM_THREADS asks for {threads}: it goes on, not bit for bit"
        )
    elif threads > suitable and ranks == 1:
        reason = "OMP_NUM_THREADS asks for" if is_set else "this run has kept"
        tell(f"{load}, and {reason} {threads} threads; OMP_NUM_THREADS={suitable} would suit the machine")
    elif threads < min(allowed(), suitable) and previous and not is_set:
        tell(
            f"{run} goes on with {previous} threads, as it began; OMP_NUM_THREADS={suitable} uses more cores, not bit for bit"
        )
    elif not is_set and threads < allowed() // ranks:
        tell(f"{load}, so training takes {threads} threads; OMP_NUM_THREADS={allowed()} takes them all")


def tell(text: str) -> None:
    """Print a note on stderr."""
    say(f"note: {text}", sys.stderr)


def recorded(run: Path) -> int | None:
    """The threads recorded in a run that can be resumed, or None. Raises ValueError if the record is damaged."""
    path = run / "environment.json"
    if not any((run / "checkpoints").glob("nimg-*")) or not path.is_file():
        return None
    threads = read_object(
        path, "restore it, or remove it, and the run goes on with the threads that suit the machine, not bit for bit"
    ).get("threads")
    return threads if isinstance(threads, int) and threads > 0 else None


def share_of(run: Path, processes: int) -> int:
    """Threads of one of `processes` that train on this machine at once."""
    return recorded(run) or max(1, allowed() // processes)
