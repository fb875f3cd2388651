"""A log that cannot be flooded: each kind of line has a burst and a rate per second; lines beyond it are counted, not
written.

A kind is a logging statement's file and line number together with the hundreds digit of an HTTP status (`extra={"said":
{"status": 404}}`), so that refusals do not crowd out the requests that were served.
"""

import logging
import sys
import threading
import time
from dataclasses import dataclass, field

TELL_S = 5.0  # until left-out lines are reported


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A token bucket for lines: `burst` at once, refilled at `per_s`."""

    burst: int
    per_s: float


SERVED = Budget(burst=500, per_s=100.0)
WARNINGS = Budget(burst=100, per_s=10.0)  # and refused requests
ERROR_BUDGET = Budget(burst=20, per_s=1.0)  # tracebacks are long


@dataclass(eq=False)
class Kind:
    """State of one kind of line. left: lines that may be written now. out: lines left out since the last report."""

    budget: Budget
    left: float
    since: float = field(default_factory=time.monotonic)
    out: int = 0

    def take(self) -> bool:
        """Whether a line may be written; counts it either way."""
        now = time.monotonic()
        self.left = min(self.left + (now - self.since) * self.budget.per_s, float(self.budget.burst))
        self.since = now
        if self.left < 1:
            self.out += 1
            return False
        self.left -= 1
        return True


class CalmHandler(logging.StreamHandler):
    """A stream handler that writes at most what the budgets of the kinds allow."""

    def __init__(self, stream: object = None):
        super().__init__(stream or sys.stderr)  # type: ignore[arg-type]
        self._kinds: dict[tuple[str, int, int], Kind] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as left out. Called with the handler's lock held."""
        status_class = getattr(record, "said", {}).get("status", 0) // 100
        key = (record.pathname, record.lineno, status_class)
        if (kind := self._kinds.get(key)) is None:
            budget = ERROR_BUDGET if record.levelno >= logging.ERROR else SERVED
            if record.levelno == logging.WARNING or status_class >= 4:
                budget = WARNINGS
            kind = self._kinds[key] = Kind(budget, float(budget.burst))
        if kind.take():
            super().emit(record)
        elif self._timer is None:
            self._timer = threading.Timer(TELL_S, self.tell)
            self._timer.daemon = True
            self._timer.start()

    def tell(self) -> None:
        """Report how many lines were left out since the last report, by kind."""
        with self.lock:  # type: ignore[union-attr]
            self._timer = None
            for (path, line, _), kind in self._kinds.items():
                if kind.out:
                    location = f"{path.rpartition('/')[2]}:{line}"
                    args = (kind.out, location)
                    kind.out = 0
                    super().emit(
                        logging.LogRecord(
                            __name__, logging.WARNING, path, line, "%d more lines of %s were left out", args, None
                        )
                    )

    def close(self) -> None:
        """Report what was left out, then close."""
        if self._timer is not None:
            self._timer.cancel()
        self.tell()
        super().close()
