"""Stop signals for commands that have nothing to save: SIGTERM (schedulers) and SIGHUP (closed terminals) act as Ctrl-C.

`held_back` defers them while processes are started.
"""

import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType

SAME_S = 5.0  # within this time a signal is the same request again: a group, `timeout` and launchers deliver one several times
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
STOP_SIGNALS = (signal.SIGINT, *END_SIGNALS, signal.SIGUSR1)  # all signals that may ask for a stop


@contextmanager
def stop_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt in the block, unless they have a handler or are ignored (nohup)."""
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

    signals = [signum for signum in END_SIGNALS if signal.getsignal(signum) == signal.SIG_DFL]
    for signum in signals:
        signal.signal(signum, told)
    try:
        yield
    finally:
        for signum in signals:
            signal.signal(
                signum, signal.SIG_IGN if first else signal.SIG_DFL
            )  # after a request the command is about to end, with its own exit code


@contextmanager
def held_back(unseen: Collection[signal.Signals]) -> Iterator[None]:
    """Defer signals that ask for a stop to the end of the block: a handler may raise, and nobody could end what is half started.

    unseen: signals that processes started in the block never receive. They are blocked in this thread, which alone
    defers nothing: the kernel delivers them to another thread, and Python calls the handler in this one all the same.
    """
    caught: list[int] = []
    is_holding = True

    def hold(number: int, frame: FrameType | None) -> None:
        if is_holding:
            caught.append(number)
        else:  # the handler of another signal raised while handlers were being restored
            handlers[number](number, frame)

    is_main = threading.current_thread() is threading.main_thread()  # elsewhere Python calls no handlers
    previous = {int(signum): signal.getsignal(signum) for signum in STOP_SIGNALS if is_main}
    handlers = {signum: handler for signum, handler in previous.items() if callable(handler)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        for signum in handlers:
            signal.signal(signum, hold)
        signal.pthread_sigmask(signal.SIG_BLOCK, unseen)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        is_holding = False
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        for caught_signum in caught:
            signal.raise_signal(caught_signum)
