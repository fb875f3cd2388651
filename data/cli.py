"""Shared by all command lines: one-line errors, exit codes for scripts, progress for terminals and logs.

Exit codes: 0 done, 1 failed at run time (`RunError`), 2 an error that the user can fix (wrong option, `ValueError`,
`OSError`), 3 out of memory, 130 interrupted: by Ctrl-C, or by SIGTERM or SIGHUP where the command has no handlers of
its own.
"""

import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

from data.cpus import wait_asleep
from data.errors import RunError, one_line
from data.line import say
from data.stop import stop_as_interrupt

LINE_EVERY_S = 10.0  # between two progress lines without a terminal

T = TypeVar("T")


def run(command: Callable[..., object]) -> NoReturn:
    """Parse sys.argv with typer by the signature of `command`, call it, and exit with its code."""
    import typer

    wait_asleep()
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(plain_errors(command))
    wrong_usage: type[Exception] = typer.BadParameter.__bases__[0]  # typer's own, or click's
    try:
        check_values(app)
        code = app(standalone_mode=False)  # commands return nothing, --help returns 0
    except wrong_usage as error:
        leave(f"error: {' '.join(error.format_message().split())} (see --help)", 2)  # type: ignore[attr-defined]
    except typer.Abort:
        leave("interrupted", 130)
    raise SystemExit(code or 0)


def check_values(app: Any) -> None:
    """Exit if an option has an empty value, as an unset shell variable gives: an empty path would mean the current folder."""
    from typer.main import get_command

    options = {
        name
        for parameter in get_command(app).params
        if not getattr(parameter, "is_flag", False)
        for name in parameter.opts
    }
    args = sys.argv[1:]
    option_args = args[: args.index("--")] if "--" in args else args
    for name, value in pairwise([*option_args, "end"]):
        if (name in options and not value) or (name.endswith("=") and name[:-1] in options):
            leave(f"error: {name.rstrip('=')} has an empty value; give it one, or leave it out", 2)


def plain_errors(command: Callable[..., object]) -> Callable[..., object]:
    """Wrap `command`: errors that a user can fix become one line on stderr and an exit code, not a traceback."""

    @wraps(command)
    def wrapped(*args, **kwargs):
        try:
            with stop_as_interrupt():
                return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            leave(f"error: {one_line(error)}", 2)
        except RunError as error:
            leave(f"error: {one_line(error)}", error.code)
        except KeyboardInterrupt:
            leave("interrupted", 130)
        except EOFError as error:  # click would take it for Ctrl-D, and report "interrupted" for a truncated file
            raise RuntimeError("a file or a pipe ended too early") from error

    return wrapped


def leave(message: str, code: int) -> NoReturn:
    """Print one line to stderr and exit."""
    say(message, sys.stderr)
    # under -m, CPython kills itself by SIGINT if the last code compiled from text (a dataclass, say) was interrupted: compile some
    namedtuple("Made", "")
    raise SystemExit(code)


def progress(items: Iterable[T], total: int, what: str, unit: str = "img") -> Iterator[T]:
    """Yield `items` with a bar and a rate on a terminal, else with a line every LINE_EVERY_S and one at the end."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, unit=unit)
        return
    started_at = last_shown_at = time.monotonic()
    for num, item in enumerate(items, 1):
        now = time.monotonic()
        if now - last_shown_at >= LINE_EVERY_S or num == total:
            last_shown_at = now
            _say(what, num, total, unit, now - started_at)
        yield item


def _say(what: str, num: int, total: int, unit: str, elapsed_s: float) -> None:
    rate = num / max(elapsed_s, 1e-9)
    say(f"{what}: {num:,} of {total:,} {unit} in {elapsed_s:.0f} s ({rate:,.0f} {unit}/s)", sys.stderr)
