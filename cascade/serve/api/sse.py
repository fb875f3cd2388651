"""Server-sent events: a job's log as a stream, without a buffer that slow readers could fill.

What to send is looked up when the connection can take it: a slow reader gets fewer previews and all milestones, and so do
all streams of an owner that follows many jobs on many of them (`Pace`). A reader that takes nothing for `stall_s` is
dropped. After `heartbeat_s` without data, whatever the job does, a comment is sent: proxies and readers take a silent
connection for a dead one.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from functools import cache
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cascade.events import Preview

from ..http.limits import Limits, Pace
from ..http.reads import disconnected
from ..jobs.job import Job
from ..jobs.states import ENDED
from .views import mounted

PREVIEW_EVERY_S = 0.08  # in one stream; more would be faster than eyes and not worth encoding
ENCODERS = 2  # threads
HEARTBEAT = b": still here\n\n"
Told = tuple[str, int, dict[str, Any]]


def frame(number: int | str, name: str, data: dict[str, Any]) -> bytes:
    """One event as bytes. JSON has no raw line breaks, so that data is one line whatever a prompt contains."""
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(data)}\n\n".encode()


@cache
def _encoders() -> CapacityLimiter:
    return CapacityLimiter(ENCODERS)


async def follow(
    job: Job,
    after: int,
    make: Callable[[Job, Preview], dict[str, Any]],
    *,
    pace: Pace | None,
    every_s: float = PREVIEW_EVERY_S,
) -> AsyncGenerator[Told, None]:
    """(name, number, data) of the events after number `after`, until the job ends.

    pace: limits previews; None: no previews, but the milestones `partial`. every_s: shortest time between previews.
    """
    shown, wait_s, owner = 0.0, every_s, job.row.owner
    with job.watch() as bell, pace.following(owner) if pace else nullcontext():
        while True:
            has_ended = job.has_ended
            due = shown + wait_s - time.monotonic()
            bell.hears_previews = pace is not None and due <= 0
            num = 0
            for entry in job.since(after, previews=bell.hears_previews):
                after = max(after, entry.id)
                if entry.preview is not None or entry.data is None:
                    data = await to_thread.run_sync(entry.render, lambda p: make(job, p), limiter=_encoders())
                else:
                    data = entry.data
                if entry.name == "preview":
                    shown, num = time.monotonic(), num + 1
                if pace is None or entry.name != "partial":
                    yield entry.name, entry.id, data
            if pace is not None and num:
                wait_s = max(every_s, num * pace.wait_s(owner))
            if has_ended:
                return
            await bell.heard(None if due <= 0 else due)


async def counted(
    place: AbstractContextManager[object], chunks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """The chunks, with a stream's slot held until they end."""
    with place:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk


async def frames(
    place: AbstractContextManager[object],
    job: Job,
    after: int,
    make: Callable[[Job, Preview], dict[str, Any]],
    *,
    pace: Pace,
    root_path: str,
) -> AsyncGenerator[bytes, None]:
    """What `follow` gives, as bytes of a stream, with links under root_path; holds the stream's slot."""
    with place:
        yield b"retry: 1000\n\n"
        async with aclosing(follow(job, after, make, pace=pace)) as events:
            async for name, event_id, data in events:
                if data or name in ENDED:
                    yield frame(event_id, name, mounted(data, root_path))


async def beating(chunks: AsyncGenerator[bytes, None], heartbeat_s: float) -> AsyncGenerator[bytes, None]:
    """The chunks, with a heartbeat whenever the next one takes longer than heartbeat_s."""
    async with aclosing(chunks):
        while True:
            coming = asyncio.create_task(_next(chunks))
            try:
                while not (await asyncio.wait((coming,), timeout=heartbeat_s))[0]:
                    yield HEARTBEAT
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
            chunk = coming.result()
            if chunk is None:
                return
            yield chunk


async def _next(chunks: AsyncGenerator[bytes, None]) -> bytes | None:
    async for chunk in chunks:
        return chunk
    return None


class EventStream(Response):
    """A response of `chunks` with heartbeats, until they end, the client leaves or takes nothing for stall_s. `left` is
    called in the last two cases."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], limits: Limits, *, left: Callable[[], None] = lambda: None):
        self.chunks, self.stall_s, self.left = beating(chunks, limits.heartbeat_s), limits.stall_s, left
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self.left()
            elif not sending.cancelled():
                sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async with aclosing(self.chunks) as chunks:
            async for chunk in chunks:
                try:
                    async with asyncio.timeout(self.stall_s):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except TimeoutError:
                    self.left()
                    return  # the response stays unfinished, so the server closes the connection
        await send({"type": "http.response.body", "body": b"", "more_body": False})
