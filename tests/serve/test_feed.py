"""The events of several jobs in one stream, on a real socket."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from cascade.serve.http.keys import Keys
from cascade.serve.http.limits import Limits
from tests.serve.serving import ENDED, MANY, Client, Serving, load, slowed, until

Told = tuple[str, str, dict[str, Any]]


def frames(lines: Iterator[str]) -> Iterator[Told]:
    """(id, event, data)"""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name in ("id", "event", "data"):
            fields[name] = value
        elif not line and fields.get("event"):
            yield fields["id"], fields["event"], json.loads(fields["data"])
            fields = {}


def told(
    client: Client, jobs: list[str], last: str = "", *, few: Callable[[Told], bool] = lambda _: False
) -> list[Told]:
    """To the end, or to what `few` says is enough."""
    found = []
    headers = {"last-event-id": last} if last else {}
    with client.stream("GET", "/v1/events", params={"jobs": ",".join(jobs)}, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"] == "text/event-stream"
        for each in frames(answer.iter_lines()):
            found.append(each)
            if few(each):
                break
    return found


def numbers(position: str) -> dict[str, int]:
    return {job: int(number) for job, _, number in (part.partition(":") for part in position.split(","))}


def milestones(client: Client, job: str) -> list[tuple[int, str, dict[str, Any]]]:
    return [each for each in client.events(job) if each[1] != "preview"]


def test_each_job_is_told_as_in_a_stream_of_its_own(client: Client):
    jobs = [client.start(num=n)["id"] for n in (1, 2, 1)]
    found = told(client, jobs)
    for job in jobs:
        own = [
            (numbers(position)[job], name, {key: value for key, value in data.items() if key != "job"})
            for position, name, data in found
            if data["job"] == job and name != "preview"
        ]
        assert own == milestones(client, job)
    assert {data["job"] for _, name, data in found if name == "preview"} == set(jobs)
    positions = [numbers(position) for position, _, _ in found]
    assert all(set(each) == set(jobs) for each in positions)
    for before, after in itertools.pairwise(positions):
        assert before != after
        assert all(after[job] >= before[job] for job in jobs)


@pytest.mark.parametrize("how", ["header", "address"])
def test_it_goes_on_where_it_was(client: Client, how: str):
    jobs = [client.start()["id"] for _ in range(2)]
    first = told(client, jobs, few=lambda each: each[1] == "stage_finished")
    last = first[-1][0]
    rest = told(client, jobs, last) if how == "header" else told(client, last.split(","))
    for job in jobs:
        own = [
            (numbers(position)[job], name)
            for position, name, data in (*first, *rest)
            if data["job"] == job and name != "preview"
        ]
        assert own == [(number, name) for number, name, _ in milestones(client, job)]
    query = {"jobs": ",".join(jobs)}
    answer = client.get("/v1/events", params=query, headers={"last-event-id": rest[-1][0]})
    assert (answer.status_code, answer.content) == (204, b"")


def test_a_job_that_is_not_there_is_gone_and_the_others_are_told(serve):
    server = serve(keys=Keys({"one": "k" * 20, "other": "o" * 20}))
    one, other = (Client(base_url=server.url, headers={"x-api-key": letter * 20}, timeout=60) for letter in "ko")
    mine, gone, foreign = one.run()["id"], one.run()["id"], other.run()["id"]
    assert one.delete(f"/v1/jobs/{gone}/pictures").status_code == 204
    found = told(one, ["nothing", gone, foreign, mine])
    assert [(data["job"], data["code"]) for _, name, data in found if name == "gone"] == [
        ("nothing", "not_found"), (gone, "expired"), (foreign, "not_found")
    ]  # fmt: skip
    assert {data["job"] for _, name, data in found if name != "gone"} == {mine}
    query = {"jobs": f"nothing,{gone},{foreign},{mine}"}
    assert one.get("/v1/events", params=query, headers={"last-event-id": found[-1][0]}).status_code == 204
    one.close()
    other.close()


def test_whoever_leaves_it_leaves_all_its_jobs(serve):
    server = serve(cascade=slowed(load(), 0.05), limits=Limits(abandon_s=0.1))
    jobs = [server.client.start(settings=MANY)["id"] for _ in range(3)]
    told(server.client, jobs, few=lambda each: each[1] == "preview")
    for job in jobs:
        assert server.client.finish(job) == "cancelled"
    until(lambda: server.service.streams.num == 0)


def test_it_is_one_of_the_streams(serve):
    server = serve(cascade=slowed(load(), 0.05), limits=Limits(streams=1, abandon_s=0.5))
    jobs = [server.client.start(settings=MANY)["id"] for _ in range(8)]
    with httpx.stream("GET", f"{server.url}/v1/events?jobs={','.join(jobs)}", timeout=60) as answer:
        lines = frames(answer.iter_lines())
        assert next(lines)[1] == "stage_started"
        assert server.service.streams.num == 1
        assert server.client.get("/v1/events", params={"jobs": jobs[0]}).status_code == 429
    for job in jobs:
        assert server.client.finish(job) in ENDED


@pytest.mark.parametrize("jobs", ["", ",", "a,,b", "a:x", "a:-1", f"a:{10**18}0", ":3", "x" * 30_000])
def test_a_list_that_is_none_is_refused(client: Client, jobs: str):
    answer = client.get("/v1/events", params={"jobs": jobs})
    assert answer.status_code == 422, answer.text
    assert client.get("/v1/events").status_code == 422


def test_an_unfinished_list_of_many(client: Client):
    many = [f"job{k}" for k in range(257)]
    answer = client.get("/v1/events", params={"jobs": ",".join(many)})
    assert (answer.status_code, client.error(answer)) == (422, "invalid_request")
    assert "257 jobs; at most 256" in answer.json()["error"]["message"]


@pytest.mark.matrix
def test_a_reader_of_many_jobs_sees_each_move(serve):
    """Previews of the first come most often, those of the others too."""
    server: Serving = serve(cascade=slowed(load(), 0.01))
    jobs = [server.client.start(settings=MANY, num=2)["id"] for _ in range(4)]
    found = told(server.client, jobs)
    seen = {job: sum(name == "preview" and data["job"] == job for _, name, data in found) for job in jobs}
    assert all(seen.values()), seen
    assert [name for _, name, data in found if name in ENDED] == ["finished"] * 4
