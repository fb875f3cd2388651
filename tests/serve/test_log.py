"""What operators read: whose each line is, when jobs start and end, as text and as JSON."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from cascade.serve.http import logs
from cascade.serve.http.keys import Keys
from tests.serve.serving import FEW, Child, Serving, load, poisoned, until

KEY = "alice-0123456789abcdef"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """As the process writes them."""
    found, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(found), root.level
    handler.setFormatter(logs.Lines())
    root.addHandler(handler)
    root.setLevel("INFO")
    yield found
    root.removeHandler(handler)
    root.setLevel(level)


def test_each_line_says_whose_it_is(serve, lines: io.StringIO):
    serving: Serving = serve(keys=Keys({"alice of sales": KEY}))
    serving.client.headers["x-api-key"] = KEY
    answer = serving.client.post(
        "/v1/jobs", json={"prompts": ["x"], "num": 2, "settings": FEW}, headers={"x-request-id": "req-1:a"}
    )
    job = answer.json()["id"]
    assert answer.headers["x-request-id"] == "req-1:a"
    assert serving.client.finish(job) == "finished"
    whose = rf'request=req-1:a job={job} key="alice of sales" client=127\.0\.0\.1'
    for said in (
        rf"INFO POST /v1/jobs 202 \d+ ms {whose}",
        rf"INFO job started: 2 images, waited \d+\.\d\d s {whose}",
        rf"INFO job finished: 2 images, \d+\.\d\d s {whose}",
    ):
        line = re.compile(f"^[-0-9]+ [0-9:,]+ {said}$", re.MULTILINE)
        until(lambda line=line: line.search(lines.getvalue()))
    assert re.search(rf"GET /v1/jobs/\{{job\}} 200 \d+ ms request=req_[0-9a-f]{{16}} job={job} key=", lines.getvalue())


def test_a_request_has_an_id_of_its_own_where_the_given_is_none(serving: Serving, lines: io.StringIO):
    for given in ("", "a b", "x" * 129, "a\tb", '"quoted"', "\xfc"):
        answer = serving.client.get("/nothing", headers={"x-request-id": given.encode("latin-1")})
        assert re.fullmatch("req_[0-9a-f]{16}", answer.headers["x-request-id"]), given
        until(lambda number=answer.headers["x-request-id"]: number in lines.getvalue())
    refused = serving.client.get("/v1/models", headers={"host": "elsewhere", "x-request-id": "mine"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (421, "mine")


def test_why_a_job_failed_is_said_beside_its_request(serve, lines: io.StringIO):
    """In the threads of the engine and of the disk, too."""
    serving: Serving = serve(cascade=poisoned(load(), 70.0))
    bad = {"base_16": {"num_steps": 2, "sigma_max": 70.0}, "sr_64": {"num_steps": 2}}
    answer = serving.client.post(
        "/v1/jobs", json={"prompts": ["x"], "settings": bad}, headers={"x-request-id": "bad-one"}
    )
    assert serving.client.finish(answer.json()["id"]) == "failed"
    until(lambda: "job failed" in lines.getvalue())
    assert re.search(r"INFO job failed: 1 images, \d+\.\d\d s, sampling_failed request=bad-one job=", lines.getvalue())


@pytest.mark.matrix
def test_json(child, tmp_path):
    """Every line of the process."""
    keys = tmp_path / "keys"
    keys.write_text(f"alice: {KEY}\n")
    server: Child = child("--keys", str(keys), "--log-json")
    server.client.headers["x-api-key"] = KEY
    answer = server.client.post(
        "/v1/jobs", json={"prompts": ["\u2028 x"], "settings": FEW}, headers={"x-request-id": "r1"}
    )
    job = answer.json()["id"]
    assert server.client.finish(job) == "finished"
    until(lambda: "job finished" in server.log.read_text())
    said = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in said)
    of_job = [line for line in said if line.get("request") == "r1"]
    whose = {"request": "r1", "job": job, "key": "alice", "client": "127.0.0.1"}
    assert len(of_job) == 3
    assert all(line.items() >= whose.items() for line in of_job)
    by = {line["message"].partition(":")[0].split()[0:2][-1]: line for line in of_job}
    assert by["started"].items() >= {"images": 1}.items()
    assert by["finished"].items() >= {"state": "finished", "images": 1}.items()
    assert by["finished"]["seconds"] > 0
    assert by["/v1/jobs"].items() >= {"method": "POST", "route": "/v1/jobs", "status": 202}.items()
