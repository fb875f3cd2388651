"""Processes that end with their parent, whatever ended it: after kill -9 it closes no queue and takes back no request."""

import multiprocessing
import os
import threading

POLL_S = 0.5


def end_with_parent() -> None:
    """To be called in a process of `multiprocessing`: it ends soon after the one that started it."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()


def _watch(above: int) -> None:
    """`above` is the parent after a fork; under a fork server the parent's sentinel tells, which its later forks may hold open."""
    if parent := multiprocessing.parent_process():
        while parent.is_alive() and os.getppid() == above:
            parent.join(POLL_S)
        os._exit(1)
