"""Command lines called in this process, through the same wrapper as on the command line."""

import sys
from collections.abc import Callable

import pytest

from data.cli import run


def call(main: Callable[..., object], *arguments: object) -> int:
    """The exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            run(main)
    assert isinstance(exit.value.code, int)
    return exit.value.code
