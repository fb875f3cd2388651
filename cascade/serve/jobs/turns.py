"""A queue between threads that serves owners in turn, so that a long backlog of one owner hardly delays the others."""

import threading
from collections import deque
from queue import Empty
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Round-robin queue over owners, first in first out within each."""

    def __init__(self) -> None:
        self._of: dict[str, deque[T]] = {}  # by owner, the next one first
        self._is_closed = False
        self._changed = threading.Condition()

    def put(self, owner: str, item: T) -> None:
        """Append an item of an owner; never waits for space."""
        with self._changed:
            self._of.setdefault(owner, deque()).append(item)
            self._changed.notify()

    def close(self) -> None:
        """Let `get` return None once nothing is left."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def get(self, timeout_s: float | None = None) -> T | None:
        """The next item, or None after `close` if nothing is left. Raises Empty if none comes within timeout_s."""
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
