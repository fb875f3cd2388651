"""Ends the process at once: on signals during start-up, when there is nothing to lose, and after everything is stored.

An exception from a signal handler can be swallowed where it surfaces, as in the callback of a weak reference, and the
server would go on.
"""

import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

log = logging.getLogger("cascade.serve")
EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGHUP: 130}
NOT_TAKEN = (signal.SIG_DFL, signal.default_int_handler)
_has_begun = False


def end_at_once() -> None:
    """End at once on SIGTERM, SIGINT and SIGHUP, unless the signal has a handler already or is ignored (nohup)."""
    for signum in EXIT_CODES:
        if signal.getsignal(signum) in NOT_TAKEN:
            signal.signal(signum, _told)


def begun() -> None:
    """Mark the end of start-up: the server now has handlers of its own and data to store. After those handlers are removed,
    SIGTERM and SIGINT are ignored, since the process is about to end."""
    global _has_begun
    _has_begun = True


def _told(number: int, _frame: FrameType | None) -> None:
    if _has_begun:
        if number == signal.SIGHUP:
            raise KeyboardInterrupt
        return
    told(number)


def told(number: int) -> NoReturn:
    """End the process for a signal that came during start-up."""
    try:
        log.info("%s while the server starts: ended", signal.Signals(number).name)
    finally:
        end(EXIT_CODES[signal.Signals(number)])


def end(code: int) -> NoReturn:
    """End the process without waiting for threads, one of which may decode a picture whose request has been answered, or
    for Python's clean-up."""
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
