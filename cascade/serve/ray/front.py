"""The application of the process with the socket when the engines are in other processes: chooses a replica and passes
messages on.

A job lives where it was created: its id begins with the number of its replica, and its events, cancellation and refinements
go there. A new job goes to the replica with the fewest waiting images; a request that any replica can answer goes to one
that answered last. Nobody waits long for a lost replica, although Ray keeps its calls until it has restarted it. Responses
stream through as ASGI messages.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from itertools import count
from typing import Any, TypeVar
from urllib.parse import parse_qs

from pydantic import TypeAdapter
from starlette.datastructures import Headers, QueryParams
from starlette.types import Message, Receive, Scope, Send

from ..api.answers import answer
from ..api.views import history
from ..http.guard import error_body, refuse
from ..http.limits import Refused
from ..http.metrics import HttpMetrics, merged
from ..http.reads import disconnected
from .front_feed import FEED, asked_of, jobs_of, join

log = logging.getLogger("cascade.serve")
T = TypeVar("T")
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
    "share",
    "about",
]
IMAGES_PATH = "/v1/images/generations"
MAKES = ("/v1/jobs", IMAGES_PATH)
ASK_S = 5.0  # for the first answer if all are asked, and for a replica that was silent before
PATIENCE_S = 1.0  # after the first answer, for the others
BRIEF_S = 0.25  # after the first answer, for replicas that were silent before
METRICS = b"text/plain; version=0.0.4; charset=utf-8"


def carried(scope: Scope) -> Scope:
    """The part of a scope that can be sent to a replica."""
    return {key: scope[key] for key in SCOPE if key in scope}


class Front:
    """ASGI application that passes requests on to replicas. stall_s: a reader that takes nothing for this long is dropped,
    since messages of its replica are buffered here meanwhile."""

    def __init__(self, replicas: list[Any], metrics: HttpMetrics, *, stall_s: float):
        self.replicas, self.metrics, self.stall_s = replicas, metrics, stall_s
        self._there = set(range(len(replicas)))  # replicas that answered when last asked
        self._made, self._said = count(), count()  # for turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive()).get("body", b"")
        path, method = scope["path"], scope["method"]
        try:
            if path in ("/healthz", "/startupz") and method in ("GET", "HEAD"):
                await plain(send, 200, b"ok" if path == "/healthz" else b"started")  # Ray restarts unhealthy replicas
            elif path == "/v1/jobs" and method == "GET":
                await self._history(scope, receive, send)
            elif path == "/metrics" and method == "GET" and b"replica=" not in scope["query_string"]:
                await self._metrics(scope, send)
            elif path == FEED and method == "GET":
                await self._feed(scope, body, receive, send)
            elif path == "/readyz" or (path in MAKES and method == "POST"):
                await self._pass_on(await self._least_busy(), scope, body, receive, send)
            elif (replica := self._number(scope)) is not None:
                await self._pass_on(replica, scope, body, receive, send)
            else:
                await self._anywhere(scope, body, receive, send)
        except Refused as error:
            self.metrics.refused.labels(error.code).inc()
            await refuse(error, send)

    def _number(self, scope: Scope) -> int | None:
        """Number of the one replica that can answer; None if any can."""
        path = scope["path"]
        if path == "/metrics":
            return self._of(parse_qs(scope["query_string"].decode("latin-1")).get("replica", [""])[0])
        return self._of(path.removeprefix("/v1/jobs/").partition("-")[0] if path.startswith("/v1/jobs/") else "")

    def _of(self, number: str) -> int | None:
        if number.isascii() and number.isdecimal() and len(number) < 6 and int(number) < len(self.replicas):
            return int(number)
        return None

    async def _asked(self, ask: Callable[[int], Coroutine[Any, Any, T]]) -> dict[int, T]:
        """Answers of those replicas that give one in time. Raises Refused if none does."""
        tasks = {asyncio.create_task(ask(replica)): replica for replica in range(len(self.replicas))}
        answers: dict[int, T] = {}
        waiting, deadline = set(tasks), time.monotonic() + ASK_S
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                answers |= {
                    tasks[future]: future.result()
                    for future in done
                    if not future.cancelled() and not future.exception()
                }
                if answers:
                    is_known = any(tasks[future] in self._there for future in waiting)
                    deadline = min(deadline, time.monotonic() + (PATIENCE_S if is_known else BRIEF_S))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._there = set(answers)
        if not answers:
            raise Refused(503, "no_replica", "no replica is ready; try again later", retry_after=5)
        return answers

    async def _least_busy(self) -> int:
        """The replica with the fewest waiting images. Raises Refused if none accepts jobs."""

        async def load(number: int) -> int:
            return await self.replicas[number].load.remote()

        loads, turn = await self._asked(load), next(self._made)
        return min(loads, key=lambda number: (loads[number], (number - turn) % len(self.replicas)))

    async def _anywhere(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Pass a request on that changes nothing: to a replica that answered last, or to all if that one is lost or silent."""
        candidates = sorted(self._there) or range(len(self.replicas))
        try:
            replica = candidates[next(self._said) % len(candidates)]
            await self._pass_on(replica, scope, body, receive, send, first_s=PATIENCE_S)
        except Refused:
            answers = await self._asked(lambda number: self._whole(number, scope, body))
            start, content = answers[min(answers)]
            await send(start)
            await send({"type": "http.response.body", "body": content})

    async def _pass_on(
        self, number: int, scope: Scope, body: bytes, receive: Receive, send: Send, *, first_s: float | None = None
    ) -> None:
        """Pass a request on to one replica. Raises Refused if it is lost, or silent for first_s, before its first message;
        if it is lost later, an event stream ends with an event that says so."""
        if first_s is None and number not in self._there:
            first_s = ASK_S
        await self._unless_left(self._messages(number, scope, body, send, first_s), receive)

    async def _unless_left(self, work: Coroutine[Any, Any, None], receive: Receive) -> None:
        passing = asyncio.create_task(work)
        leaving = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                passing.result()
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.gather(passing, leaving, return_exceptions=True)

    async def _messages(self, number: int, scope: Scope, body: bytes, send: Send, first_s: float | None) -> None:
        started: Message = {}
        try:
            async with aclosing(self._told(number, scope, body)) as messages, asyncio.timeout(first_s) as silence:
                async for message in messages:
                    if not started:
                        started = message
                        self._there.add(number)
                        silence.reschedule(None)
                    if not await self._taken(message, send):
                        return  # unfinished, so the server closes the connection
        except Exception as error:  # Ray raises many types
            log.error("replica %d: %s", number, type(error).__name__)
            self._there.discard(number)
            lost = Refused(503, "replica_lost", "the replica of this job was lost; start the job again", retry_after=5)
            if not started:
                raise lost from None
            if any(value.startswith(b"text/event-stream") for _, value in started.get("headers", ())):
                last = last_words(scope, lost)
                await self._taken({"type": "http.response.body", "body": last, "more_body": False}, send)

    async def _taken(self, message: Message, send: Send) -> bool:
        """Send a message; False if the reader has left or takes nothing for stall_s."""
        try:
            async with asyncio.timeout(self.stall_s):
                await send(message)
        except OSError:
            return False
        return True

    async def _told(self, number: int, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
        """The messages of a response; closing the generator cancels the replica's work."""
        stream = self.replicas[number].options(stream=True).answer.remote(carried(scope), body)
        is_last = False
        try:
            async for message in stream:
                is_last = message["type"] == "http.response.body" and not message.get("more_body")
                yield message
        except (GeneratorExit, asyncio.CancelledError):
            if not is_last:
                with suppress(Exception):  # it may have failed already
                    stream.cancel()
            raise

    async def _whole(self, number: int, scope: Scope, body: bytes = b"") -> tuple[Message, bytes]:
        """A whole response: its first message and its body."""
        async with aclosing(self._told(number, scope, body)) as messages:
            start, *rest = [message async for message in messages]
        return start, b"".join(message["body"] for message in rest)

    async def _feed(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Events of jobs of several replicas, as one stream."""
        requests = asked_of(scope, lambda job: self._of(job.partition("-")[0]) or 0)
        if len(requests) == 1:
            return await self._pass_on(min(requests), requests[min(requests)], body, receive, send)

        async def tell(number: int, own: Scope, send: Send) -> None:
            await self._messages(number, own, body, send, None if number in self._there else ASK_S)

        await self._unless_left(join(requests, tell, send), receive)

    async def _history(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Jobs of all replicas that answer, newest first."""
        headers = Headers(scope=scope)
        excluded = (b"accept-encoding", b"if-none-match")  # for caching and compression, which are done here
        inner_scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in excluded]}
        answers = await self._asked(lambda number: self._whole(number, inner_scope))
        for start, body in answers.values():
            if start["status"] != 200:
                return await plain(send, start["status"], body, b"application/json")
        pages = [json.loads(body) for _, body in answers.values()]
        entries = (job for page in pages for job in page["jobs"])
        jobs = sorted(entries, key=lambda job: (job["created"], job["id"]), reverse=True)
        # parsed as by the replicas, which have accepted it: "5.0" is 5
        limit = TypeAdapter(int).validate_python(QueryParams(scope["query_string"]).get("limit", "50"))
        data = history(jobs, limit, is_more=any(page.get("next") for page in pages))
        await (await asyncio.to_thread(answer, headers, data))(scope, receive, send)

    async def _metrics(self, scope: Scope, send: Send) -> None:
        """Metrics of this process and of all replicas that answer."""
        try:
            answers = await self._asked(lambda number: self._whole(number, scope))
        except Refused:
            answers = {}
        texts = {replica: body.decode() for replica, (start, body) in answers.items() if start["status"] == 200}
        text = await asyncio.to_thread(merged, self.metrics.text().decode(), texts)  # slow for many replicas
        await plain(send, 200, text, METRICS)


def last_words(scope: Scope, lost: Refused) -> bytes:
    """The end of a stream after its replica was lost, in the form that its readers expect."""
    body = error_body(lost.code, str(lost), lost.status)
    name, data = ("error", body) if scope["path"] == IMAGES_PATH else ("failed", body["error"])
    events = [{"job": job, **data} for job in jobs_of(scope)] if scope["path"] == FEED else [data]
    return b"".join(f"event: {name}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


async def plain(send: Send, status: int, body: bytes, kind: bytes = b"text/plain; charset=utf-8") -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})
