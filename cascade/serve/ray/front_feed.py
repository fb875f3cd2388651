"""Joins the event streams of several replicas, for `Front`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

from starlette.datastructures import QueryParams
from starlette.types import Message, Scope, Send

from ..http.limits import Refused

FEED = "/v1/events"


def jobs_of(scope: Scope) -> list[str]:
    """Ids in the query parameter `jobs`."""
    return [part.partition(":")[0] for part in _parts(scope)]


def _parts(scope: Scope) -> list[str]:
    return QueryParams(scope["query_string"]).get("jobs", "").split(",")


def asked_of(scope: Scope, replica_of: Callable[[str], int]) -> dict[int, Scope]:
    """The request to each replica, for its own jobs alone."""
    parts: dict[int, list[str]] = {}
    for part in _parts(scope):
        parts.setdefault(replica_of(part), []).append(part)
    if len(parts) == 1:
        return {replica: scope for replica in parts}
    return {
        replica: {**scope, "query_string": urlencode({"jobs": ",".join(entries)}).encode()}
        for replica, entries in parts.items()
    }


async def join(asked: Mapping[int, Scope], tell: Callable[[int, Scope, Send], Awaitable[None]], send: Send) -> None:
    """Send the events of several replicas as one stream. tell: passes on the messages of a replica; raises Refused if it is
    lost. Sends 204 if no replica has events. If one refuses, all end: before the first message by raising Refused, later by
    closing the connection, so that the client reconnects."""
    started, num_whole, turn = False, 0, asyncio.Lock()  # turn: for a message, which is whole frames
    refused: asyncio.Future[Refused] = asyncio.get_running_loop().create_future()

    def refuse(why: Refused) -> None:
        if not refused.done():
            refused.set_result(why)

    async def pass_on(number: int, scope: Scope) -> None:
        status = 0

        async def take(message: Message) -> None:
            nonlocal status, started, num_whole
            is_start = message["type"] == "http.response.start"
            status = message["status"] if is_start else status
            if status not in (200, 204):
                refuse(Refused(503, "busy", f"a replica answers {status}; try again later", retry_after=2))
            elif status == 200:
                async with turn:
                    if not is_start:
                        await send({**message, "more_body": True})
                    elif not started:
                        started = True
                        await send(message)
            num_whole += not is_start and not message.get("more_body")

        try:
            await tell(number, scope, take)
        except Refused as error:
            refuse(error)

    tasks = [asyncio.create_task(pass_on(*item)) for item in asked.items()]
    try:
        done = asyncio.gather(*tasks)
        await asyncio.wait((refused, done), return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            done.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if refused.done() and not started:
        raise refused.result()
    if refused.done() or num_whole < len(asked):
        return  # unfinished, so the server closes the connection
    if not started:
        await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})
