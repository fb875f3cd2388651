"""Out of memory: recognised by its error, and avoided by smaller portions. A grid or a validation must never end a healthy run."""

import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from data.line import say

T = TypeVar("T")


def is_memory_error(error: BaseException) -> bool:
    """Whether an exception means out of memory, under any of torch's names for it."""
    text = str(error)
    patterns = ("out of memory", "allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(pattern in text for pattern in patterns)


def device_of(module: nn.Module) -> torch.device:
    """Device of a module's parameters; the CPU if it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


class Portions:
    """Splits work on pictures into portions that fit into memory; a portion that failed is halved for all work that follows."""

    def __init__(self, what: str):
        self.what, self.most = what, sys.maxsize

    def each(self, num: int, work: Callable[[slice], T]) -> list[T] | None:
        """Apply `work` to consecutive portions of `num` pictures and return the results, or None if even one picture is too
        many."""
        while self.most:
            results = self._tried(num, work)
            if results is not None:
                return results
            self.most = min(self.most, num) // 2
            self._say(f"{self.most} pictures at once are tried" if self.most else "skipped; training goes on")
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        self.most = 1  # there may be room next time
        return None

    def _tried(self, num: int, work: Callable[[slice], T]) -> list[T] | None:
        """One attempt. A call of its own, so that its tensors are freed before the next attempt."""
        size = min(self.most, num)
        try:
            return [work(slice(start, start + size)) for start in range(0, num, size)]
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise
            return None

    def _say(self, then: str) -> None:
        say(f"{self.what}: out of memory; {then}", sys.stderr)
