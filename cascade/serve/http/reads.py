"""Reads of one client take turns: more of them at once would only fight for the interpreter, which others need, too.

A turn is had until the answer is made; how slowly it is read holds up nobody.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from starlette.types import Receive

READS = 4  # of one client that are made at once


class Reads:
    """By whoever they are of."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, who: tuple[str, str], receive: Receive) -> AsyncIterator[bool]:
        """Waits for it; False where the client left before."""
        turn = self._turns.setdefault(who, asyncio.Semaphore(READS))
        is_here = await (_unless_left(turn, receive) if turn.locked() else turn.acquire())
        try:
            yield is_here
        finally:
            if is_here:
                turn.release()


async def _unless_left(turn: asyncio.Semaphore, receive: Receive) -> bool:
    """Acquires it; False, and not, where the client leaves before."""
    taking, leaving = asyncio.create_task(turn.acquire()), asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait((taking, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        taking.cancel()
        leaving.cancel()
        await asyncio.gather(taking, leaving, return_exceptions=True)
    return not taking.cancelled()


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
