"""Requests to stop: from a scheduler (SIGTERM, SIGUSR1, SIGHUP: save, exit 0, for a requeue) or a person (SIGINT: exit 130).

A process group, `timeout` and launchers deliver one request several times, so a signal soon after the first is no second request.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, Self

from data.line import say_in_handler
from data.stop import SAME_S, interrupt, is_importing

WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


class Stopped(SystemExit):
    """Ends the process with code 0 after a request to stop, when nothing is left to save."""


class StopSignals:
    """Context that handles signals to stop: the first is recorded, or raises if nothing is to be saved; a second request ends the
    process at once.

    at_once: until `hold`, a signal ends the process, as there is nothing to save; only for a process that no other waits for.
    second_ends: False leaves a second request to the reader of `again`.
    """

    def __init__(self, *, at_once: bool = False, second_ends: bool = True) -> None:
        self.caught: int | None = None
        self.again = False
        self._at_once, self._second_ends = at_once, second_ends
        self._waiting, self._caught_at, self._depth = False, 0.0, 0
        self._before: dict[int, object] = {}

    @property
    def interrupted(self) -> bool:
        """Whether the first signal was SIGINT."""
        return self.caught == signal.SIGINT

    def __enter__(self) -> Self:
        self._depth += 1
        if (
            self._depth == 1 and threading.current_thread() is threading.main_thread()
        ):  # elsewhere Python allows no handlers
            handled = [
                signum for signum in WATCHED if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN
            ]  # nohup
            self._before = {signum: signal.signal(signum, self._catch) for signum in handled}
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            for signum, handler in self._before.items():
                signal.signal(signum, handler)  # type: ignore[arg-type]

    def hold(self) -> None:
        """From now on there is something to save: a signal is only recorded, and ends nothing but `waiting`."""
        self._at_once = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context that a signal ends with Stopped, even one from before."""
        self._waiting = True
        try:
            if self.caught is not None:
                raise Stopped
            yield
        finally:
            self._waiting = False

    def _catch(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.caught is not None:
            if now - self._caught_at > SAME_S:
                self.again = True
                if self._second_ends:
                    os._exit(128 + number)
            return
        self.caught, self._caught_at = number, now
        if self._at_once:
            self._leave(number, frame)
        if self._waiting:
            raise Stopped

    def _leave(self, number: int, frame: FrameType | None) -> NoReturn:
        if number == signal.SIGINT:
            interrupt(number, frame)
        say_in_handler("told to stop before the first update: nothing is lost, the same command goes on", sys.stderr)
        if is_importing(frame):
            os._exit(0)
        raise Stopped
