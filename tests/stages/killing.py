"""Kills a piece of code at each of its touches of the disk, one after the other, as a power cut would."""

import os
from collections.abc import Callable, Iterator

import pytest

TOUCHES = ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir")


class Killed(BaseException):
    """No `except Exception` may catch it."""


def killed_everywhere(code: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Runs `code` again and again, killed before its first touch of the disk, its second, ... until one run ends.

    Yields the number of touches survived, after each kill, for the test to look at what is left.
    """
    for survived in range(1000):
        with monkeypatch.context() as patch:
            _arm(patch, survived)
            try:
                code()
            except Killed:
                pass
            else:
                assert survived > 0, "never touched the disk"
                return
        yield survived
    raise AssertionError("a thousand touches of the disk and no end")


def _arm(patch: pytest.MonkeyPatch, survived: int) -> None:
    count = 0

    def guarded(touch):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count > survived:
                raise Killed
            return touch(*args, **kwargs)

        return call

    for name in TOUCHES:
        patch.setattr(os, name, guarded(getattr(os, name)))
