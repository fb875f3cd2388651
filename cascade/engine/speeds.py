"""How fast hosts are: seconds of a row, for time budgets.

Measured when first asked for, in the thread that makes a host's calls (CUDA graphs belong to a thread) and between two calls of
others; then each call of a request corrects it, so that it follows what the machine can do beside its other work.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from statistics import median

import torch

from stages.memory import is_memory_error

from .batching import random_ask
from .host import Host
from .stats import HostStats

log = logging.getLogger(__name__)
TRIES = 3  # calls, after a warm-up; the middle one counts, since others use the machine, too
NEWEST = 0.2  # weight of the newest call
Key = tuple[str, int]  # name of a host, rows of a call rounded up to a power of two


class Speeds:
    """Seconds of a row by host and size of the call, at the stage's own size of pictures. clock: seconds."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self._row_s: dict[Key, float] = {}
        self._asked: dict[Key, Future[float]] = {}
        self._lock = threading.Lock()

    def ask(self, name: str, rows: int) -> Future[float]:
        """Seconds of a row of a call with so many; known at once, or when `measure` has been called."""
        key = name, bucket(rows)
        with self._lock:
            if key not in self._row_s:
                return self._asked.setdefault(key, Future())
            found: Future[float] = Future()
            found.set_result(self._row_s[key])
            return found

    def wants(self, hosts: Mapping[str, Host]) -> bool:
        """Whether one of these hosts is to be measured."""
        with self._lock:
            return any(name in hosts for name, _ in self._asked)

    def measure(self, hosts: Mapping[str, Host], stats: Mapping[str, HostStats], *, buckets: bool) -> bool:
        """Measure one that was asked for, if there is one; whoever asked gets what a call raises. Returns whether there was one.

        stats: by host; its rows are shared among calls as they would be for a request, and halved as there if memory runs out.
        """
        with self._lock:
            key = next((key for key in self._asked if key[0] in hosts), None)
            if key is None:
                return False
            future = self._asked.pop(key)
        try:
            host, rows = hosts[key[0]], key[1]
            seconds = [self._rows_s(host, rows, stats[host.name], buckets=buckets) for _ in range(TRIES + 1)]
        except Exception as error:
            log.warning("stage %s: its speed could not be measured", key[0], exc_info=error)
            future.set_exception(error)
            return True
        with self._lock:
            self._row_s[key] = median(seconds[1:]) / key[1]
        future.set_result(self._row_s[key])
        return True

    def _rows_s(self, host: Host, rows: int, stats: HostStats, *, buckets: bool) -> float:
        """Seconds of the calls that answer so many rows, as large as memory allows."""
        ask = random_ask(host, rows)
        while True:
            start = self.clock()
            try:
                host.answer([ask], batch=stats.most(host, ask.size), buckets=buckets)
                return self.clock() - start
            except Exception as error:
                if not is_memory_error(error) or stats.most(host, ask.size) == 1:
                    raise
                stats.halve(host, ask.size)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # only now: the exception kept tensors alive

    def count(self, host: Host, size: tuple[int, ...], rows: int, seconds: float) -> None:
        """Correct what is known by a call; one for pictures of another size says nothing."""
        key = host.name, bucket(rows)
        if size == host.stage.config.size:
            with self._lock:
                if key in self._row_s:
                    self._row_s[key] += NEWEST * (seconds / rows - self._row_s[key])

    def close(self, error: Exception) -> None:
        """Let all who wait end with this error."""
        with self._lock:
            asked, self._asked = self._asked, {}
        for future in asked.values():
            future.set_exception(error)


def bucket(rows: int) -> int:
    """The power of two from `rows` on."""
    return 1 << (rows - 1).bit_length()
