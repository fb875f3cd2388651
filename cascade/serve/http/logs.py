"""The log: each line names the request, job, key and client that it is about, as text or as JSON.

`begin` and `during` set this context for a task or thread; it also holds in the asyncio tasks and worker
threads started from there.
"""

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from .calm import CalmHandler


@dataclass
class About:
    """Context of log lines. "" stands for what is unknown, or not yet known: a job gets its id while its request is
    handled."""

    request: str = ""
    job: str = ""
    key: str = ""
    client: str = ""


_NOW: ContextVar[About | None] = ContextVar("about", default=None)
PLAIN = re.compile(r"[\w.:@+-]+")


def now() -> About:
    """The current context."""
    return _NOW.get() or About()


def begin(about: About) -> None:
    """Set the context until this task or thread ends or sets another."""
    _NOW.set(about)


@contextmanager
def during(about: About) -> Iterator[None]:
    """Set the context inside `with`."""
    token = _NOW.set(about)
    try:
        yield
    finally:
        _NOW.reset(token)


def start(*, as_json: bool) -> None:
    """Set up logging of this process, to stderr."""
    handler = CalmHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # we log requests ourselves


def _known() -> dict[str, str]:
    return {name: value for name, value in asdict(now()).items() if value}


class Lines(logging.Formatter):
    """Text lines: time, level, message, and the context as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of logging
        """The message followed by the context."""
        context = (
            f" {key}={value if PLAIN.fullmatch(value) else json.dumps(value)}" for key, value in _known().items()
        )
        return super().formatMessage(record) + "".join(context)


class JsonLines(logging.Formatter):
    """One JSON object a line. `extra={"said": {...}}` of a call adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a JSON object."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().strip(),
            **_known(),
            **getattr(record, "said", {}),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields)
