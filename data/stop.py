"""Stop signals for commands that have nothing to save: SIGTERM (schedulers) and SIGHUP (closed terminals) act as Ctrl-C.

No exception is raised in an import, `is_importing`. `held_back` defers signals while processes are started.
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
IMPORT_S, AGAIN_S = 2.0, 0.02  # how long a signal waits for the end of an import, and how often it looks
INTERRUPTED = 130  # exit code of shells for SIGINT
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
STOP_SIGNALS = (signal.SIGINT, *END_SIGNALS, signal.SIGUSR1)  # all signals that may ask for a stop


@contextmanager
def stop_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt in the block, unless they have a handler or are ignored (nohup).

    In the midst of an import they wait for its end, and so does SIGINT, for IMPORT_S at the most: then the process ends at once
    with code 130, and what the block would have cleared away stays.
    """
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        yield
        return
    first: list[float] = []
    waits_since: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not is_importing(frame) or (waits_since and time.monotonic() - waits_since[0] > IMPORT_S):
            interrupt(number, frame)
        waits_since[:] = waits_since or [time.monotonic()]
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    def told(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if first and now - first[0] < SAME_S and not waits_since:
            return
        first[:] = [now]
        stop(number, frame)

    alarm = signal.getsignal(signal.SIGALRM)
    signals = [signum for signum in END_SIGNALS if signal.getsignal(signum) == signal.SIG_DFL]
    for signum in signals:
        signal.signal(signum, told)
    takes_interrupt = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if takes_interrupt:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if waits_since:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
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
