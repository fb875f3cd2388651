"""Memory that does not suffice: how it is told, and work in portions that it holds. A grid or a validation must never end a run
that trains well."""

import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


def is_memory_error(error: BaseException) -> bool:
    """Whether memory did not suffice, by any of the names that torch has for it."""
    text = str(error)
    told = ("out of memory", "allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(each in text for each in told)


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of a module are; the CPU for one that has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


class Portions:
    """How many pictures at once `what` can do; a number that was too many is halved, for all that follows."""

    def __init__(self, what: str):
        self.what, self.most = what, sys.maxsize

    def each(self, num: int, work: Callable[[slice], T]) -> list[T] | None:
        """What `work` gives for one portion of `num` pictures after the other. None where it cannot do a single one."""
        while self.most:
            done = self._tried(num, work)
            if done is not None:
                return done
            self.most = min(self.most, num) // 2
            self._say(f"{self.most} pictures at once are tried" if self.most else "skipped; training goes on")
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        self.most = 1  # when it comes to it again, there may be room
        return None

    def _tried(self, num: int, work: Callable[[slice], T]) -> list[T] | None:
        """In a call of its own, so that nothing keeps the tensors of an attempt alive when the next one begins."""
        size = min(self.most, num)
        try:
            return [work(slice(start, start + size)) for start in range(0, num, size)]
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise
            return None

    def _say(self, then: str) -> None:
        print(f"{self.what}: out of memory; {then}", file=sys.stderr, flush=True)
