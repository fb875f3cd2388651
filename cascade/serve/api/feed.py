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
GONE_POSITION = 10**18 - 1  # position of a job that is not there, after its event `gone`


def positions(said: str, what: str) -> dict[str, int]:
    """Positions by job: "a:12,b" gives {"a": 12, "b": 0}. what: the parameter, for messages. Raises Refused."""
    by_job: dict[str, int] = {}
    for part in said.split(","):
        job, colon, position = part.partition(":")
        if not job or (colon and not (position.isascii() and position.isdecimal() and len(position) < 19)):
            raise Refused(422, "invalid_request", f"{what}: {part[:60]!r} is not JOB or JOB:NUMBER, divided by commas")
        by_job[job] = int(position or 0)
    if len(by_job) > MOST:
        raise Refused(422, "invalid_request", f"{what}: {len(by_job)} jobs; at most {MOST} are allowed")
    return by_job


def is_told(jobs: Mapping[str, Job | Refused], at: Mapping[str, int]) -> bool:
    """Whether nothing of these jobs is left to send, now or later."""
    return all(
        at[name] == GONE_POSITION
        if isinstance(job, Refused)
        else job.has_ended and not job.since(at[name], previews=False)
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
        for name, outcome in jobs.items():
            if isinstance(outcome, Refused) and at[name] != GONE_POSITION:
                at[name] = GONE_POSITION
                yield frame(_id(at), "gone", {"job": name, "code": outcome.code, "message": str(outcome)})
        existing = [job for job in jobs.values() if isinstance(job, Job)]
        async with aclosing(_merged(existing, at, make, pace)) as events:
            async for job, (name, position, data) in events:
                at[job] = position
                if data or name in ENDED:
                    yield frame(_id(at), name, {"job": job, **mounted(data, root_path)})


def _id(at: Mapping[str, int]) -> str:
    """The id of an event: positions of all jobs."""
    return ",".join(f"{job}:{position}" for job, position in at.items())


async def _merged(
    jobs: Sequence[Job], at: Mapping[str, int], make: Callable[[Job, Preview], Data], pace: Pace
) -> AsyncGenerator[tuple[str, Told], None]:
    """What `follow` gives of each job, as it comes. One event at a time is passed on, so that a slow reader makes all of
    them wait."""
    channel: asyncio.Queue[tuple[str, Any]] = asyncio.Queue(1)

    async def pump(job: Job, every_s: float) -> None:
        end: object = END
        try:
            async with aclosing(follow(job, at[job.id], make, pace=pace, every_s=every_s)) as events:
                async for event in events:
                    await channel.put((job.id, event))
        except Exception as error:
            end = error
        await channel.put((job.id, end))

    intervals = [PREVIEW_EVERY_S, *[OTHERS_EVERY_S] * len(jobs)]
    pumps = [asyncio.create_task(pump(job, every_s)) for job, every_s in zip(jobs, intervals, strict=False)]
    running = len(pumps)
    try:
        while running:
            job, event = await channel.get()
            if isinstance(event, Exception):
                raise event
            if event is END:
                running -= 1
            else:
                yield job, event
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
