"""Stop signals for commands that have nothing to save: SIGTERM (schedulers) and SIGHUP (closed terminals) act as Ctrl-C.

An import is left without an exception, `is_importing`. `held_back` defers signals while processes are started.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from data.line import say_in_handler

SAME_S = 5.0  # within this time a signal is the same request again: a group, `timeout` and launchers deliver one several times
INTERRUPTED = 130  # exit code of shells for SIGINT
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
STOP_SIGNALS = (signal.SIGINT, *END_SIGNALS, signal.SIGUSR1)  # all signals that may ask for a stop


@contextmanager
def stop_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt in the block, unless they have a handler or are ignored (nohup). In the midst
    of an import they end the process at once with code 130, and so does SIGINT."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        yield
        return
    first: list[float] = []

    def told(_number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] < SAME_S:
            return
        first[:] = [now]
        interrupt(signal.SIGINT, frame)

    signals = [signum for signum in END_SIGNALS if signal.getsignal(signum) == signal.SIG_DFL]
    for signum in signals:
        signal.signal(signum, told)
    takes_interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if takes_interrupt:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if takes_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        for signum in signals:
            signal.signal(
                signum, signal.SIG_IGN if first else signal.SIG_DFL
            )  # after a request the command is about to end, with its own exit code


def interrupt(_number: int, frame: FrameType | None) -> NoReturn:
    """Python's own handler of SIGINT, except in the midst of an import: there the process ends at once, with code 130."""
    if is_importing(frame):
        say_in_handler("interrupted", sys.stderr)
        os._exit(INTERRUPTED)
    raise KeyboardInterrupt


def is_importing(frame: FrameType | None) -> bool:
    """Whether a frame is within an import: an exception raised there may pass through a library's own C++ or Rust, which abort."""
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


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
