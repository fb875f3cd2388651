"""A log that nobody can flood: of each kind of line a number at once and a few a second, then a count of what was left out.

The kind is where in the source a line is logged, and the hundreds of an HTTP status (`extra={"said": {"status": 404}}`), so that
refusals do not crowd out the requests that were served.
"""

import logging
import sys
import threading
import time
from dataclasses import dataclass, field

TELL_S = 5.0  # until what was left out is counted


@dataclass(frozen=True, kw_only=True)
class Budget:
    burst: int
    per_s: float


SERVED = Budget(burst=500, per_s=100.0)
WARNINGS = Budget(burst=100, per_s=10.0)  # and requests that were refused
ERRORS = Budget(burst=20, per_s=1.0)  # their tracebacks are long


@dataclass(eq=False)
class Kind:
    """left: lines that may come now. out: lines that did not."""

    budget: Budget
    left: float
    since: float = field(default_factory=time.monotonic)
    out: int = 0

    def take(self) -> bool:
        now = time.monotonic()
        self.left = min(self.left + (now - self.since) * self.budget.per_s, float(self.budget.burst))
        self.since = now
        if self.left < 1:
            self.out += 1
            return False
        self.left -= 1
        return True


class CalmHandler(logging.StreamHandler):
    """Writes at most what the budgets of the kinds allow."""

    def __init__(self, stream: object = None):
        super().__init__(stream or sys.stderr)  # type: ignore[arg-type]
        self._kinds: dict[tuple[str, int, int], Kind] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """With the handler's lock held."""
        refused = getattr(record, "said", {}).get("status", 0) // 100
        key = (record.pathname, record.lineno, refused)
        if (kind := self._kinds.get(key)) is None:
            budget = ERRORS if record.levelno >= logging.ERROR else SERVED
            if record.levelno == logging.WARNING or refused >= 4:
                budget = WARNINGS
            kind = self._kinds[key] = Kind(budget, float(budget.burst))
        if kind.take():
            super().emit(record)
        elif self._timer is None:
            self._timer = threading.Timer(TELL_S, self.tell)
            self._timer.daemon = True
            self._timer.start()

    def tell(self) -> None:
        """How many lines were left out since the last time, by kind."""
        with self.lock:  # type: ignore[union-attr]
            self._timer = None
            for (path, line, _), kind in self._kinds.items():
                if kind.out:
                    where = f"{path.rpartition('/')[2]}:{line}"
                    said = (kind.out, where)
                    kind.out = 0
                    super().emit(
                        logging.LogRecord(
                            __name__, logging.WARNING, path, line, "%d more lines of %s were left out", said, None
                        )
                    )

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.tell()
        super().close()
