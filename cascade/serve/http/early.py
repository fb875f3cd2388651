"""The process ends there and then: by signals while the server starts, when it has nothing to lose, and when all is stored.

An exception from a handler can be swallowed where it comes up, as in the callback of a weak reference, and the server would go on.
"""

import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

log = logging.getLogger("cascade.serve")
CODES = {signal.SIGTERM: 0, signal.SIGINT: 130, signal.SIGHUP: 130}
NOT_TAKEN = (signal.SIG_DFL, signal.default_int_handler)
_has_begun = False


def end_at_once() -> None:
    """Whatever nobody has decided otherwise about: a handler, or nohup."""
    for number in CODES:
        if signal.getsignal(number) in NOT_TAKEN:
            signal.signal(number, _told)


def begun() -> None:
    """The server has handlers of its own, and what it stores; what comes after they are gone again finds it about to end."""
    global _has_begun
    _has_begun = True


def _told(number: int, _frame: FrameType | None) -> None:
    if _has_begun:
        if number == signal.SIGHUP:
            raise KeyboardInterrupt
        return
    told(number)


def told(number: int) -> NoReturn:
    """Ends for a signal that came while the server starts."""
    try:
        log.info("%s while the server starts: ended", signal.Signals(number).name)
    finally:
        end(CODES[signal.Signals(number)])


def end(code: int) -> NoReturn:
    """Nobody waits for threads that still work, as for a picture whose sender had his answer, nor for Python to clear up."""
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
