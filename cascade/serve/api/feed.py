"""Events of several jobs as one stream: a browser opens six connections to a server, however many jobs it watches.

Frames are those of a job's own stream; `job` in their data names the job, and their id lists the positions of all jobs:
`a:12,b:3`. A client resumes with that id, as Last-Event-ID or in `jobs`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import Any

from cascade.events import Preview

from ..http.limits import Pace, Refused
from ..jobs.job import Data, Job
from ..jobs.states import ENDED
from .sse import PREVIEW_EVERY_S, Told, follow, frame
from .views import mounted

MOST = 256  # jobs in a stream
ROOM = 100 * MOST  # characters of the list of jobs
OTHERS_EVERY_S = 1.0  # between previews of a job that is not the first
END = object()
GONE = 10**18 - 1  # position of a job that is not there, after its event `gone`


def positions(said: str, what: str) -> dict[str, int]:
    """Positions by job: "a:12,b" gives {"a": 12, "b": 0}. what: the parameter, for messages. Raises Refused."""
    found: dict[str, int] = {}
    for part in said.split(","):
        job, colon, number = part.partition(":")
        if not job or (colon and not (number.isascii() and number.isdecimal() and len(number) < 19)):
            raise Refused(422, "invalid_request", f"{what}: {part[:60]!r} is not JOB or JOB:NUMBER, divided by commas")
        found[job] = int(number or 0)
    if len(found) > MOST:
        raise Refused(422, "invalid_request", f"{what}: {len(found)} jobs; at most {MOST} are allowed")
    return found


def is_told(jobs: Mapping[str, Job | Refused], at: Mapping[str, int]) -> bool:
    """Whether nothing of these jobs is left to send, now or later."""
    return all(
        at[name] == GONE if isinstance(job, Refused) else job.has_ended and not job.since(at[name], previews=False)
        for name, job in jobs.items()
    )


async def feed(
    place: AbstractContextManager[object],
    jobs: Mapping[str, Job | Refused],
    at: Mapping[str, int],
    make: Callable[[Job, Preview], Data],
    *,
    pace: Pace,
    root_path: str,
) -> AsyncGenerator[bytes, None]:
    """Frames of all jobs. jobs: by id, each found one or its refusal, which is sent as one event `gone`. The first job has
    previews as often as in a stream of its own."""
    at = {name: at[name] for name in jobs}
    with place:
        yield b"retry: 1000\n\n"
        for name, why in jobs.items():
            if isinstance(why, Refused) and at[name] != GONE:
                at[name] = GONE
                yield frame(_id(at), "gone", {"job": name, "code": why.code, "message": str(why)})
        there = [job for job in jobs.values() if isinstance(job, Job)]
        async with aclosing(_merged(there, at, make, pace)) as told:
            async for job, (name, number, data) in told:
                at[job] = number
                if data or name in ENDED:
                    yield frame(_id(at), name, {"job": job, **mounted(data, root_path)})


def _id(at: Mapping[str, int]) -> str:
    """The id of an event: positions of all jobs."""
    return ",".join(f"{job}:{number}" for job, number in at.items())


async def _merged(
    jobs: Sequence[Job], at: Mapping[str, int], make: Callable[[Job, Preview], Data], pace: Pace
) -> AsyncGenerator[tuple[str, Told], None]:
    """What `follow` gives of each job, as it comes. One event at a time is passed on, so that a slow reader makes all of
    them wait."""
    handed: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(1)

    async def pump(job: Job, every_s: float) -> None:
        end: object = END
        try:
            async with aclosing(follow(job, at[job.id], make, pace=pace, every_s=every_s)) as told:
                async for each in told:
                    await handed.put((job.id, each))
        except Exception as error:
            end = error
        await handed.put((job.id, end))

    every = [PREVIEW_EVERY_S, *[OTHERS_EVERY_S] * len(jobs)]
    pumps = [asyncio.create_task(pump(job, every_s)) for job, every_s in zip(jobs, every, strict=False)]
    open_ = len(pumps)
    try:
        while open_:
            job, each = await handed.get()
            if isinstance(each, Exception):
                raise each
            if each is END:
                open_ -= 1
            else:
                yield job, each
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
