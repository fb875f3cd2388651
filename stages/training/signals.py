"""Being told to stop: by the scheduler (SIGTERM, SIGUSR1: save, exit 0, to be queued again) or by a person (SIGINT: exit 130)."""

import os
import signal
import threading
from types import FrameType
from typing import Self

WATCHED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Inside this context the first signal is only remembered; a second one ends the process at once."""

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, object] = {}

    @property
    def interrupted(self) -> bool:
        return self.caught == signal.SIGINT

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._catch) for number in WATCHED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _catch(self, number: int, _frame: FrameType | None) -> None:
        if self.caught is not None:
            os._exit(128 + number)
        self.caught = number
