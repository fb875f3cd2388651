"""A line that a command says to its user."""

import os
import sys
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
