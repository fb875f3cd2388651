"""Limits concurrent reads of one client: more would only compete for the interpreter, which other clients need too.

A turn lasts until the response is ready; how slowly the client reads it delays nobody.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from starlette.types import Receive

READS = 4  # of one client at once


class Reads:
    """Turns for reads, by client."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, who: tuple[str, str], receive: Receive) -> AsyncIterator[bool]:
        """Wait for a turn. Yields False if the client left before it came."""
        turn = self._turns.setdefault(who, asyncio.Semaphore(READS))
        is_here = await (_unless_left(turn, receive) if turn.locked() else turn.acquire())
        try:
            yield is_here
        finally:
            if is_here:
                turn.release()


async def _unless_left(turn: asyncio.Semaphore, receive: Receive) -> bool:
    """Acquire a turn; False, without acquiring it, if the client leaves first."""
    taking, leaving = asyncio.create_task(turn.acquire()), asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait((taking, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        taking.cancel()
        leaving.cancel()
        await asyncio.gather(taking, leaving, return_exceptions=True)
    return not taking.cancelled()


async def disconnected(receive: Receive) -> None:
    """Wait until the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
