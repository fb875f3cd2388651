"""A line that a command says to its user."""

import os
import sys
from contextlib import suppress
from typing import TextIO


def say(line: object, stream: TextIO | None = None) -> None:
    """Write a line to stdout, or to `stream`, and flush it.

    The text and its end are one write: a signal whose handler raises comes before or after it, never between, so the
    line that then says how to go on is a line of its own. Neither a closed reader nor an encoding that lacks some
    character raises.
    """
    stream = stream or sys.stdout
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(f"{line}\n".encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError:  # reader closed or disk full: redirect to /dev/null, else Python reports an error when it exits
        with open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), stream.fileno())


def say_in_handler(line: object, stream: TextIO | None) -> None:
    """Write a line to the file of `stream`, past its buffer: a signal's handler may have come in the midst of another write of the
    stream, which refuses a second one by RuntimeError. A closed reader raises nothing, nor does a stream that is closed or None."""
    if stream is None:  # as sys.stderr is in a process that was started without one
        return
    with suppress(OSError, ValueError):
        os.write(stream.fileno(), f"{line}\n".encode(stream.encoding or "utf-8", "backslashreplace"))
