"""The process with the socket, without Ray: replicas that are there, that are lost and that never answer, as functions."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import openai
import pytest
from fastapi import FastAPI, Query
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from prometheus_client.parser import text_string_to_metric_families

from cascade.serve.http.guard import Guard
from cascade.serve.http.keys import Keys, Share
from cascade.serve.http.limits import Limits
from cascade.serve.http.logs import About
from cascade.serve.http.metrics import HttpMetrics, Metrics
from cascade.serve.ray import front
from cascade.serve.ray.front import Front
from cascade.serve.ray.replica import Replica

SOON_S = 0.6


class Local(Replica):
    """Without an engine."""

    def __init__(self, app: Any):
        self.app = app


class Stream:
    """What a call of Ray gives. lost_after: so many messages come."""

    def __init__(self, messages: AsyncGenerator, handle: "Handle"):
        self.messages, self.handle, self.left = messages, handle, handle.lost_after

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        if self.left == 0:
            raise RuntimeError("ActorDiedError")
        self.left -= 1
        if self.handle.is_silent:
            await asyncio.Event().wait()
        return await anext(self.messages)

    def cancel(self) -> None:
        self.handle.cancelled += 1


class Handle:
    """Of replica `number`. is_silent: Ray starts it again. lost_after: messages of an answer; it has died then."""

    def __init__(self, number: int, waiting: int = 0):
        self.number, self.waiting = number, waiting
        self.is_silent, self.lost_after, self.is_ready, self.load_s = False, -1, True, 0.0
        self.loads = self.cancelled = 0
        self.local = Local(app(number))
        self.load = SimpleNamespace(remote=self._load)
        self.answer = SimpleNamespace(remote=lambda scope, body: Stream(self.local.answer(scope, body), self))

    def options(self, *, stream: bool) -> "Handle":
        assert stream
        return self

    async def _load(self) -> int:
        self.loads += 1
        await asyncio.sleep(1000 if self.is_silent else self.load_s)
        if not self.is_ready:
            raise RuntimeError("no memory for the last requests")
        return self.waiting


def app(number: int) -> FastAPI:
    """A server that says who it is."""
    found = FastAPI()
    stats = SimpleNamespace(batch=8, calls=number, rows=0, images=0, busy_s=0.0)
    metrics = Metrics(SimpleNamespace(is_alive=True, waiting=number, stats={"base_16": stats}))

    @found.get("/")
    @found.get("/v1/models")
    @found.get("/v1/jobs/{job}")
    @found.post("/v1/jobs")
    def who() -> Response:
        return PlainTextResponse(str(number))

    @found.get("/readyz")
    def ready() -> Response:
        return PlainTextResponse("ready")

    @found.get("/metrics")
    def told() -> Response:
        return PlainTextResponse(metrics.text())

    @found.get("/v1/jobs")
    def jobs(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> dict[str, Any]:
        return {"jobs": [{"id": f"{number}-{k}", "created": 10 * k + number} for k in range(9, -1, -1)][:limit]}

    @found.get("/v1/events")
    def feed(jobs: str) -> Response:
        if jobs.endswith(":9"):
            return Response(status_code=204)

        async def each() -> AsyncIterator[bytes]:
            for job in jobs.split(","):
                yield f'id: {job}\nevent: finished\ndata: {{"job": "{job.partition(":")[0]}"}}\n\n'.encode()
                await asyncio.sleep(0)

        return StreamingResponse(each(), media_type="text/event-stream")

    @found.get("/v1/jobs/{job}/events")
    @found.post("/v1/images/generations")
    def events() -> Response:
        async def many() -> AsyncIterator[bytes]:
            while True:
                yield b": still here\n\n"
                await asyncio.sleep(0)

        return StreamingResponse(many(), media_type="text/event-stream")

    return found


@asynccontextmanager
async def served(*handles: Handle) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Front(list(handles), HttpMetrics(), stall_s=5.0))
    async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
        yield client


def running(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """On two replicas."""

    def run() -> None:
        asyncio.run(test(Handle(0), Handle(1)))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@running
async def test_what_anyone_can_say_needs_no_question(one: Handle, other: Handle):
    async with served(one, other) as client:
        for path in ("/", "/v1/models"):
            assert {(await client.get(path)).text for _ in range(2)} == {"0", "1"}
        assert (await client.get("/healthz")).text == "ok"
        assert (await client.get("/nothing")).status_code == 404
    assert one.loads + other.loads == 0


@running
async def test_one_that_is_silent_costs_a_second_once(one: Handle, other: Handle):
    one.is_silent = True
    async with served(one, other) as client:
        began = time.monotonic()
        assert (await client.get("/")).text == "1"
        assert time.monotonic() - began < front.PATIENCE_S + front.PATIENCE_S + 0.5
        for method, path in (("GET", "/"), ("GET", "/v1/models"), ("POST", "/v1/jobs"), ("GET", "/v1/jobs")) * 2:
            began = time.monotonic()
            assert (await client.request(method, path)).status_code == 200
            assert time.monotonic() - began < SOON_S, path
        one.is_silent = False
        assert (await client.post("/v1/jobs")).status_code == 200
        assert {(await client.get("/")).text for _ in range(2)} == {"0", "1"}
    assert one.cancelled == 4  # a page, asked of one and of all, and two histories


@running
async def test_one_that_dies_before_its_first_message_is_replaced(one: Handle, other: Handle):
    one.lost_after = 0
    async with served(one, other) as client:
        assert [(await client.get("/v1/models")).text for _ in range(3)] == ["1"] * 3
        assert (await client.get("/v1/jobs/0-a")).json()["error"]["code"] == "replica_lost"
        assert (await client.get("/v1/jobs/1-a")).text == "1"
        answer = await client.post("/v1/jobs")  # might be made twice
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "6")


@running
async def test_whose_a_request_is_reaches_the_replica(one: Handle, other: Handle):
    """Its key's name and limits, and what the log calls it."""
    key, share, seen = "alice-0123456789abcdef", Share(open_jobs=3), []
    answer = one.answer.remote
    one.answer.remote = lambda scope, body: seen.append(scope) or answer(scope, body)
    metrics = HttpMetrics()
    keys = Keys({"alice": key}, {"alice": share})
    guard = Guard(Front([one], metrics, stall_s=5.0), Limits(), metrics, keys=keys)
    headers = {"x-api-key": key, "x-request-id": "mine"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://front") as client:
        assert (await client.get("/v1/jobs/0-a", headers=headers)).headers["x-request-id"] == "mine"
    about = About(request="mine", job="0-a", key="alice", client="127.0.0.1")
    assert [(scope["owner"], scope["share"], scope["about"]) for scope in seen] == [("alice", share, about)]


@running
async def test_each_new_job_asks_who_is_least_busy(one: Handle, other: Handle):
    async with served(one, other) as client:
        made = []
        for one.waiting, other.waiting, one.is_ready in ((3, 2, True), (1, 2, True), (1, 2, False), (1, 2, True)):
            made.append((await client.post("/v1/jobs")).text)
        one.waiting = other.waiting
        assert {(await client.post("/v1/jobs")).text for _ in range(2)} == {"0", "1"}
    assert made == ["1", "0", "1", "0"]
    assert (one.loads, other.loads) == (6, 6)


@running
async def test_one_that_is_slow_is_waited_for(one: Handle, other: Handle):
    one.load_s, other.waiting = 0.4, 5
    async with served(one, other) as client:
        assert (await client.post("/v1/jobs")).text == "0"


def test_ready_while_one_is(monkeypatch):
    monkeypatch.setattr(front, "ASK_S", 0.3)

    async def test(one: Handle, other: Handle) -> None:
        async with served(one, other) as client:
            other.is_silent = True
            assert [(await client.get("/readyz")).status_code for _ in range(4)] == [200] * 4
            other.is_silent, other.is_ready = False, False
            assert [(await client.get("/readyz")).status_code for _ in range(4)] == [200] * 4
            one.is_silent = True
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.post("/v1/jobs")).json()["error"]["code"] == "no_replica"
            assert (await client.get("/")).text == "1"
            assert (await client.get("/v1/jobs/0-a")).status_code == 503  # within ASK_S
            one.is_silent = False
            assert (await client.get("/v1/jobs/0-a")).status_code == 200

    running(test)()


@running
async def test_history(one: Handle, other: Handle):
    async with served(one, other) as client:
        for query, num in (("", 20), ("?limit=3", 3), ("?limit=5.0", 5), ("?limit=2&limit=4", 4), ("?limit=%2B2", 2)):
            found = [job["id"] for job in (await client.get(f"/v1/jobs{query}")).json()["jobs"]]
            assert found == [f"{k}-{job}" for job in range(9, -1, -1) for k in (1, 0)][:num], query
        for query in ("?limit=x", "?limit=", "?limit=5.5", "?limit=0", "?limit=201", "?limit=%D9%A5", "?limit=1e1"):
            answer = await client.get(f"/v1/jobs{query}")
            assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "limit"]), query
        one.is_silent = True
        assert {job["id"][0] for job in (await client.get("/v1/jobs")).json()["jobs"]} == {"1"}


@running
async def test_streams_of_one_that_dies_end_as_their_readers_know_it(one: Handle, other: Handle):
    one.lost_after, other.waiting = 3, 1
    async with served(one, other) as client:
        *_, name, data = (await client.get("/v1/jobs/0-a/events")).text.split("\n")[:-2]
        assert name == "event: failed"
        assert data.startswith('data: {"code": "replica_lost"')
        async with openai.AsyncOpenAI(
            base_url="http://front/v1", api_key="none", http_client=client, max_retries=0
        ) as official:
            stream = await official.images.generate(prompt="red heart", stream=True)
            with pytest.raises(openai.APIError, match="was lost") as told:
                [event async for event in stream]
        assert told.value.code == "replica_lost"


@running
async def test_events_of_jobs_of_several_replicas_come_in_one_stream(one: Handle, other: Handle):
    async def told(jobs: str) -> tuple[int, list[str]]:
        answer = await client.get("/v1/events", params={"jobs": jobs})
        return answer.status_code, sorted(re.findall('^event: [a-z]+|"job": "[^"]+"', answer.text, re.M))

    async with served(one, other) as client:
        for jobs in ("0-a:3,1-b,0-c", "0-a,0-c", "nothing,1-b"):
            names = [f'"job": "{each.partition(":")[0]}"' for each in jobs.split(",")]
            assert await told(jobs) == (200, sorted([*names, *["event: finished"] * len(names)]))
        assert await told("0-a:9,1-b:9") == (204, [])
        assert await told("0-a:9,1-b") == (200, ['"job": "1-b"', "event: finished"])
        one.lost_after = 2
        found = await told("0-a,1-b,0-c")
        assert found[1].count("event: failed") == 2  # of those of the lost one, whatever it had told before
        one.lost_after = 0
        assert (await client.get("/v1/events", params={"jobs": "0-a"})).status_code == 503
    assert one.cancelled == other.cancelled == 0


def scope_of(path: str) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}


@running
async def test_a_reader_that_takes_nothing_is_dropped(one: Handle, other: Handle):
    taken = []

    async def send(message: dict[str, Any]) -> None:
        taken.append(message)
        if len(taken) > 2:
            await asyncio.Event().wait()

    bodies = [{"type": "http.request"}]

    async def receive() -> dict[str, Any]:
        return bodies.pop() if bodies else await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await Front([one, other], HttpMetrics(), stall_s=0.2)(scope_of("/v1/jobs/0-a/events"), receive, send)
    assert one.cancelled == 1
    assert taken[-1]["more_body"]  # unfinished: the server closes the connection


@running
async def test_metrics_of_all(one: Handle, other: Handle):
    def samples(text: str) -> dict[tuple[str, str], float]:
        found = [each for family in text_string_to_metric_families(text) for each in family.samples]
        return {(each.name, each.labels.get("replica", "")): each.value for each in found}

    async with served(one, other) as client:
        one.waiting = other.waiting = 0
        assert (await client.get("/metrics?replica=1")).text.count("replica=") == 0
        answer = await client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = samples(answer.text)
        assert {found["cascade_waiting_images", "0"], found["cascade_waiting_images", "1"]} == {0, 1}
        assert 'cascade_stage_calls_total{replica="1",stage="base_16"} 1.0' in answer.text
        assert ("cascade_job_seconds_count", "0") in found
        assert not {name for name, replica in found if not replica}
        assert "cascade_http" not in answer.text
        names = [line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")]
        assert len(names) == len(set(names))
        one.is_silent = True
        assert {replica for _, replica in samples((await client.get("/metrics")).text)} == {"1"}
        assert (await client.post("/metrics")).status_code == 405


def test_metrics_where_no_replica_is_there(monkeypatch):
    monkeypatch.setattr(front, "ASK_S", 0.2)

    async def test(one: Handle, other: Handle) -> None:
        one.is_silent = other.is_silent = True
        async with served(one, other) as client:
            assert (await client.get("/v1/jobs")).status_code == 503
            answer = await client.get("/metrics")
        assert (answer.status_code, 'cascade_refused_total{code="no_replica"} 1.0' in answer.text) == (200, True)

    running(test)()


@pytest.mark.parametrize("status", [499, 500])
def test_the_log_says_who_left_and_what_broke(status: int, caplog):
    one = Handle(0)
    one.is_silent = True
    metrics = HttpMetrics()

    async def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        raise AssertionError

    async def test() -> None:
        app = Front([one], metrics, stall_s=5.0) if status == 499 else broken
        try:
            await Guard(app, Limits(), metrics, keys=None)(scope_of("/v1/jobs/0-a"), receive, send)
        except RuntimeError:
            assert status == 500

    with caplog.at_level(logging.INFO, "cascade.serve"):
        asyncio.run(test())
    assert f"GET /v1/jobs/{{job}} {status} " in caplog.text
    assert f'route="/v1/jobs/{{job}}",status="{status}"}} 1.0' in metrics.text().decode()
    assert one.cancelled == (status == 499)
