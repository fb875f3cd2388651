"""The application of the process with the socket, where the engines are elsewhere: finds the replica, passes messages on.

A job lives where it was made: its id begins with the number of its replica, so that its events, its cancel and its refinements find
it; a new one goes where the fewest images wait. Answers stream through as ASGI messages.
"""

import asyncio
import json
import logging
from itertools import count
from typing import Any
from urllib.parse import parse_qs

from starlette.types import Message, Receive, Scope, Send

from .guard import error_body, refuse
from .limits import Refused
from .metrics import Metrics
from .sse import disconnected

log = logging.getLogger("cascade.serve")
SCOPE = [
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "owner",
]
MAKES = ("/v1/jobs", "/v1/images/generations")
ASK_S = 5.0  # a replica that does not say its load within is passed over


def carried(scope: Scope) -> Scope:
    """What of a request can be sent."""
    return {key: scope[key] for key in SCOPE if key in scope}


class Front:
    """The application of the process with the socket: finds the replica, passes messages on."""

    def __init__(self, replicas: list[Any], metrics: Metrics):
        self.replicas, self.metrics = replicas, metrics
        self._turn = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        path, method = scope["path"], scope["method"]
        try:
            if path == "/v1/jobs" and method == "GET":
                await self._history(scope, send)
            elif path == "/readyz":
                await self._least_busy()
                await self._pass_on(next(self._turn) % len(self.replicas), scope, body, receive, send)
            elif path == "/metrics" and b"replica=" not in scope["query_string"]:
                await plain(send, 200, self.metrics.text())
            else:
                await self._pass_on(await self._replica(scope), scope, body, receive, send)
        except Refused as error:
            self.metrics.refused.labels(error.code).inc()
            await refuse(error, send)

    async def _replica(self, scope: Scope) -> int:
        """Raises Refused where none is there."""
        path = scope["path"]
        if path in MAKES and scope["method"] == "POST":
            return await self._least_busy()
        number = path.removeprefix("/v1/jobs/").partition("-")[0] if path.startswith("/v1/jobs/") else ""
        if path == "/metrics":
            number = parse_qs(scope["query_string"].decode("latin-1")).get("replica", [""])[0]
        if number.isascii() and number.isdecimal() and len(number) < 6 and int(number) < len(self.replicas):
            return int(number)
        return await self._least_busy()

    async def _least_busy(self) -> int:
        async def load(number: int) -> int:
            async with asyncio.timeout(ASK_S):
                return await self.replicas[number].load.remote()

        turn = next(self._turn)
        order = [(turn + k) % len(self.replicas) for k in range(len(self.replicas))]
        loads = await asyncio.gather(*(load(number) for number in order), return_exceptions=True)
        there = [(waiting, k) for k, waiting in enumerate(loads) if isinstance(waiting, int)]
        if not there:
            raise Refused(503, "no_replica", "no replica is ready; try again later", retry_after=5)
        return order[min(there)[1]]

    async def _pass_on(self, number: int, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Raises Refused where the replica is lost before its first message; later its stream ends with `failed`."""
        stream = self.replicas[number].options(stream=True).answer.remote(carried(scope), body)
        passing = asyncio.create_task(self._messages(stream, number, send))
        leaving = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            has_left = not passing.done()
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)
            if has_left:
                stream.cancel()

    async def _messages(self, stream: Any, number: int, send: Send) -> None:
        started: Message = {}
        try:
            async for message in stream:
                started = started or message
                await send(message)
        except (OSError, asyncio.CancelledError):
            raise
        except Exception as error:  # Ray has many
            log.error("replica %d: %s", number, type(error).__name__)
            lost = Refused(503, "replica_lost", "the replica of this job was lost; start the job again", retry_after=5)
            if not started:
                raise lost from None
            if any(value.startswith(b"text/event-stream") for _, value in started.get("headers", ())):
                said = json.dumps(error_body(lost.code, str(lost), lost.status)["error"])
                last = f"event: failed\ndata: {said}\n\n".encode()
                await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _history(self, scope: Scope, send: Send) -> None:
        """The jobs of all replicas that are there, newest first."""

        async def listed(replica: Any) -> tuple[int, bytes]:
            async with asyncio.timeout(ASK_S):
                messages = [
                    message async for message in replica.options(stream=True).answer.remote(carried(scope), b"")
                ]
            return messages[0]["status"], b"".join(message.get("body", b"") for message in messages)

        found = await asyncio.gather(*(listed(replica) for replica in self.replicas), return_exceptions=True)
        answers = [each for each in found if isinstance(each, tuple)]
        if not answers:
            raise Refused(503, "no_replica", "no replica is ready; try again later", retry_after=5)
        for status, body in answers:
            if status != 200:
                return await plain(send, status, body, b"application/json")
        jobs = sorted((job for _, body in answers for job in json.loads(body)["jobs"]), key=lambda job: -job["created"])
        limit = int(parse_qs(scope["query_string"].decode("latin-1")).get("limit", ["50"])[0])
        await plain(send, 200, json.dumps({"jobs": jobs[:limit]}).encode(), b"application/json")


async def plain(send: Send, status: int, body: bytes, kind: bytes = b"text/plain; charset=utf-8") -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})
