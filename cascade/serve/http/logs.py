"""The log: each line says which request, job, key and client it is about, as text or as JSON.

Who begins to work for a request says so; what is logged from then on in that task or thread, and in those that it calls, says it
too.
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
    """ "" is what is not known, or not yet: a job gets its id while its request is answered."""

    request: str = ""
    job: str = ""
    key: str = ""
    client: str = ""


_NOW: ContextVar[About | None] = ContextVar("about", default=None)
PLAIN = re.compile(r"[\w.:@+-]+")


def now() -> About:
    return _NOW.get() or About()


def begin(about: About) -> None:
    """To the end of this task or thread, or until another one begins."""
    _NOW.set(about)


@contextmanager
def during(about: About) -> Iterator[None]:
    token = _NOW.set(about)
    try:
        yield
    finally:
        _NOW.reset(token)


def start(*, as_json: bool) -> None:
    """Of the process, on stderr."""
    handler = CalmHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # what goes on we say ourselves


def _known() -> dict[str, str]:
    return {name: value for name, value in asdict(now()).items() if value}


class Lines(logging.Formatter):
    """Time, level, message, and name=value of what is known."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - of logging
        known = (f" {key}={value if PLAIN.fullmatch(value) else json.dumps(value)}" for key, value in _known().items())
        return super().formatMessage(record) + "".join(known)


class JsonLines(logging.Formatter):
    """An object a line. `extra={"said": {...}}` of a call are more fields."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().strip(),
            **_known(),
            **getattr(record, "said", {}),
        }
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said)
