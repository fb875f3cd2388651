"""A queue between threads that serves several owners in turn, so that much of one does not hold up little of another."""

import threading
from collections import deque
from queue import Empty
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Of one owner in the order in which they came. `put` never waits."""

    def __init__(self) -> None:
        self._of: dict[str, deque[T]] = {}  # the next owner first
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, owner: str, item: T) -> None:
        with self._changed:
            self._of.setdefault(owner, deque()).append(item)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def get(self, timeout_s: float | None = None) -> T | None:
        """None after `close`, when nothing is left. Raises Empty where nothing comes."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._of or self._is_closed, timeout_s):
                raise Empty
            if not self._of:
                return None
            owner = next(iter(self._of))
            items = self._of.pop(owner)
            item = items.popleft()
            if items:
                self._of[owner] = items
            return item
