"""Being told to stop by a scheduler or a closed terminal, for commands that have nothing to save: as Ctrl-C."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_S = 5.0  # within which a signal is the first one again: a group, `timeout` and launchers deliver one request several times
TOLD = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt in the block, where nobody has decided otherwise: a handler, or nohup."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        yield
        return
    first: list[float] = []

    def told(_number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] < SAME_S:
            return
        first[:] = [now]
        raise KeyboardInterrupt

    taken = [number for number in TOLD if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, told)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(
                number, signal.SIG_IGN if first else signal.SIG_DFL
            )  # told, it is about to end, with its own code
