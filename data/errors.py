"""Errors for users in one line: `RunError` with an exit code, and wording that several messages share."""

import difflib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_NAME = 100  # characters for which a nearest name is searched: for a megabyte that takes for ever
TAGS: set[str] = set()  # filled by registries with their names: these occur in pydantic's paths, not in the user's text


class RunError(RuntimeError):
    """A run that cannot go on although its options are right (NaN, out of memory): one line, no traceback, exit code `code`."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


def one_line(error: BaseException) -> str:
    """The message of an exception without line breaks; for an OSError its file and reason."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint "; did you mean ...?" with the closest allowed name, or an empty string."""
    if len(name) > MAX_NAME:
        return ""
    matches = difflib.get_close_matches(name, list(allowed), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def first_error(error: "ValidationError") -> str:
    """The first error of pydantic in one line: dotted key, message, input."""
    errors = sorted(
        error.errors(), key=lambda each: each["type"] != "extra_forbidden"
    )  # a misspelt key before the key that is missing for it
    first: dict[str, Any] = dict(errors[0])
    location = ".".join(str(part) for part in untagged(first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    suffix = f" (got {str(first['input'])[:60]!r})" if first["type"] not in ("value_error", "missing") else ""
    return f"{location}: {message}{suffix}" if location else f"{message}{suffix}"


def untagged(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A location in pydantic's path without the tags of registries, as in the user's text."""
    tags = {
        i for i, part in enumerate(loc) if part in TAGS and i and loc[i - 1] != "stages"
    }  # a stage may have the name of a tag
    return tuple(part for i, part in enumerate(loc) if i not in tags)


@contextmanager
def disk_told(path: Path) -> Iterator[None]:
    """Turn an OSError in the block, which writes `path`, into a ValueError with path, reason, free space and a fix."""
    try:
        yield
    except OSError as error:
        free = "?"
        with suppress(OSError):
            free = f"{shutil.disk_usage(path.parent).free / 1e6:,.1f}"
        raise ValueError(
            f"{path}: cannot be written ({error.strerror or error}; {free} MB are free there); what is finished stays: "
            "make room, and the same command goes on from there"
        ) from None
