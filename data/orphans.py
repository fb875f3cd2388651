"""Child processes that end with their parent, whatever ended it: after kill -9 it closes no queue and cancels no request."""

import multiprocessing
import os
import threading

POLL_S = 0.5


def end_with_parent() -> None:
    """Call in a child of `multiprocessing`: it ends within about POLL_S of the process that started it."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()


def _watch(above: int) -> None:
    """Exit when the parent ends: after a fork `above` is its pid; under a fork server its sentinel closes.

    Both are watched, because later forks of the parent may hold the sentinel open.
    """
    if parent := multiprocessing.parent_process():
        while parent.is_alive() and os.getppid() == above:
            parent.join(POLL_S)
        os._exit(1)
