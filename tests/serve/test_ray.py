"""Servers on Ray: of two, each job is found where it lives, and one that dies takes its own jobs only; stages of their own."""

import contextlib
import inspect
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import httpx
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cascade.events import StageFinished
from cascade.pipeline import Cascade
from cascade.request import Request
from cascade.serve import __main__ as serve_main
from cascade.serve import on_ray
from data.cli import run
from tests.serve.serving import ENDED, FEW, ROOT, SHIPPED, Client, parsed, until

pytest.importorskip("ray")
pytestmark = [pytest.mark.matrix, pytest.mark.timeout(400)]
TOP = {"sr_64": FEW["sr_64"]}
LONG = {"base_16": {"num_steps": 100}, "sr_64": {"num_steps": 100}}


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """The address of a server on a Ray of its own."""
    command = [sys.executable, "-m", "cascade.serve.on_ray", *options, "--port", "0", "--drain-s", "5"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    others = set(pids("ServeReplica:"))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--store", str(folder / "store")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=env,
            cwd=ROOT,
        )
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("cascade emoji_tiny on "), (folder / "log").read_text()
    try:
        yield line.split()[-1].rstrip("/")
    finally:
        process.terminate()
        process.stdout.close()
        code = process.wait(60)
    assert code == 0
    told = (folder / "log").read_text()
    assert not any(noise in told for noise in ("will not be applied", "Token authentication")), told
    assert set(pids("ServeReplica:")) <= others


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("ray"), "--replicas", "2", "--max-steps", "150") as address:
        yield address


@pytest.fixture
def client(server) -> Iterator[Client]:
    with Client(base_url=server, timeout=60) as found:
        yield found


def decoded(png: bytes) -> torch.Tensor:
    """RGB uint8 of (3, height, width)."""
    return pil_to_tensor(Image.open(io.BytesIO(png)))


def pids(title: str) -> list[int]:
    """Of processes whose command line has it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"ray::{title}" in path.read_text():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def waiting(client: Client, replica: int) -> int:
    return number(client.get(f"/metrics?replica={replica}").text, "cascade_waiting_images")


def number(metrics: str, series: str) -> int:
    """Now."""
    return int(float(re.search(rf"^{re.escape(series)} (\S+)$", metrics, re.MULTILINE)[1]))


def test_fault58_jobs_on_both_from_start_to_pictures(client):
    jobs = [client.start(num=2, seed=seed, settings=LONG if seed == 0 else FEW) for seed in range(4)]
    assert {job["id"][0] for job in jobs} == {"0", "1"}
    for job in jobs:
        told = client.events(job["id"])
        assert told[-1][1] == "finished"
        wanted = {"stage_started", "stage_finished"} | ({"preview"} if job is jobs[0] else set())
        assert {name for _, name, _ in told} >= wanted
        url = next(data for _, name, data in reversed(told) if name == "stage_finished")["pictures"][1]["url"]
        assert client.get(url).content.startswith(b"\x89PNG")
    assert [job["id"] for job in client.get("/v1/jobs").json()["jobs"]][:4] == [job["id"] for job in reversed(jobs)]
    assert len(client.get("/v1/jobs?limit=2").json()["jobs"]) == 2
    told = client.get("/metrics").text
    for series in ('cascade_job_seconds_count{replica="%d"}', 'cascade_stage_calls_total{replica="%d",stage="sr_64"}'):
        assert all(number(told, series % replica) > 0 for replica in range(2)), told
    assert 'cascade_http_requests_total{method="POST",route="/v1/jobs",status="202"}' in told


def test_fault58_refining_finds_its_replica(client):
    held = client.start(num=3, until="base_16")
    assert client.events(held["id"])[-1][1] == "held"
    answer = client.post(f"{held['url']}/refine", json={"pick": [2], "settings": TOP})
    assert answer.status_code == 202, answer.text
    assert answer.json()["id"][0] == held["id"][0]
    assert client.finish(answer.json()["id"]) == "finished"


def test_fault58_the_page_the_models_and_what_is_not_there(client):
    assert "<title>" in client.get("/").text
    assert client.get("/v1/models").json()["data"][0]["id"] == "emoji_tiny"
    assert client.get("/readyz").text == "ready"
    for path in ("/v1/jobs/0-nothing", "/v1/jobs/7-nothing", "/v1/jobs/x", "/v1/jobs/0-a/../../etc", "/nothing"):
        assert client.get(path).status_code == 404, path
    assert client.get("/v1/jobs?limit=x").status_code == 422
    answer = client.post("/v1/jobs", json={"prompts": ["a"], "num": 10**9})
    assert (answer.status_code, client.error(answer)) == (422, "invalid_request")
    assert client.post("/v1/jobs", content=b"{").status_code == 422


def test_fault43_cancelled_and_left_jobs_free_their_places(client):
    job = client.start(num=4, settings=LONG)
    assert client.delete(job["url"]).status_code == 204
    assert client.finish(job["id"]) == "cancelled"
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/images/generations", json={"prompt": "red heart", "n": 10}, timeout=0.5)
    with client.stream("POST", "/v1/images/generations", json={"prompt": "red heart", "n": 10, "stream": True}) as left:
        assert left.status_code == 200
    until(lambda: waiting(client, 0) + waiting(client, 1) == 0)


def test_fault46_a_full_queue_is_told_before_the_stream(client):
    jobs, refused = [], None
    while refused is None and len(jobs) < 40:
        answer = client.post("/v1/jobs", json={"prompts": ["a"], "num": 64, "settings": LONG})
        jobs, refused = ([*jobs, answer.json()], None) if answer.status_code == 202 else (jobs, answer)
    assert refused is not None
    assert (refused.status_code, client.error(refused)) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert client.get("/readyz").status_code == 200
    for job in jobs:
        client.delete(job["url"])
    until(lambda: waiting(client, 0) + waiting(client, 1) == 0)


def test_fault58_a_replica_that_dies_takes_its_own_jobs_only(client):
    """Its stream ends with one line, the other replica goes on, Ray starts it again and its stored pictures are there."""
    kept = [client.start(seed=seed) for seed in range(2)]
    assert all(client.finish(job["id"]) == "finished" for job in kept)
    lost = client.start(num=8, settings=LONG)
    place = lost["id"][0]
    with client.stream("GET", lost["events"]) as answer:
        lines = answer.iter_lines()
        assert next(lines)
        for pid in pids(f"ServeReplica:cascade-{place}"):
            os.kill(pid, signal.SIGKILL)
        told = [line for line in lines if line.startswith(("event:", "data:"))]
    assert told[-2] == "event: failed"
    assert "replica_lost" in told[-1]
    for path in ("/readyz", "/v1/models", "/v1/jobs", "/readyz", "/"):
        began = time.monotonic()
        assert client.get(path).status_code == 200, path
        assert time.monotonic() - began < 2, path
    other = client.start()
    assert other["id"][0] != place
    assert client.finish(other["id"]) == "finished"
    deadline = time.monotonic() + 150
    while (answer := client.get(lost["url"])).status_code != 200:
        assert (answer.status_code, client.error(answer)) == (503, "replica_lost")
        assert time.monotonic() < deadline
        time.sleep(1)
    assert (answer.json()["state"], answer.json()["error"]["code"]) == ("failed", "server_restarted")
    for job in kept:
        stage = client.get(job["url"]).json()["stages"][-1]
        assert client.get(stage["urls"][0]).content.startswith(b"\x89PNG")


def test_events_are_numbered_and_come_once(client):
    job = client.start(num=1)
    with client.stream("GET", job["events"]) as answer:
        first = next(parsed(answer.iter_lines()))
    rest = client.events(job["id"], after=first[0])
    numbers = [first[0], *(number for number, _, _ in rest)]
    assert numbers == sorted(set(numbers))
    assert rest[-1][1] in ENDED


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["--stage", "sr_64"], "write STAGE=REPLICAS"),
        (["--stage", "sr_64=0"], "1 to 1000 replicas"),
        (["--stage", "sr_128=2"], "no stage 'sr_128', the cascade has base_16, sr_64"),
        (["--stage", "sr_64=1", "--stage", "sr_64=2"], "named before"),
        (["--host", "0.0.0.0"], "--keys"),
        (["--cascade", "nowhere"], "no such folder"),
        (["--precision", "fp8"], "allowed are fp32 and bf16"),
    ],
)
def test_mistakes_on_the_command_line(said, told, capsys):
    with pytest.raises(SystemExit) as ended, mock.patch("sys.argv", ["on_ray", *said]):
        run(on_ray.main)
    error = capsys.readouterr().err.strip()
    assert (ended.value.code, error.count("\n")) == (2, 0)
    assert told in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs no GPU")
def test_gpus_that_are_not_there_are_not_waited_for(tmp_path):
    command = [sys.executable, "-m", "cascade.serve.on_ray", "--replicas", "2", "--gpus", "1", "--port", "0"]
    done = subprocess.run(
        [*command, "--store", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().endswith("error: --gpus: 2 GPUs are needed in all, there are 0; take fewer")
    assert "Traceback" not in done.stderr


def test_options_of_both_commands_have_the_same_defaults():
    one, other = (inspect.signature(main).parameters for main in (serve_main.main, on_ray.main))
    both = one.keys() & other.keys()
    assert len(both) > 20
    assert {name: one[name].default for name in both} == {name: other[name].default for name in both}


def test_stages_with_replicas_of_their_own(tmp_path):
    """One server without a weight, a base network and two of the second stage: the pictures of one process, and a network that is
    killed in the midst of a job costs it nothing."""
    said = ("--stage", "base_16=1", "--stage", "sr_64=2")
    with serving(tmp_path, *said) as address, Client(base_url=address, timeout=60) as client:
        assert len(pids("ServeReplica:stage-sr_64")) == 2
        held = client.start(num=3, seed=5, until="base_16")
        assert client.events(held["id"])[-1][1] == "held"
        job = client.post(f"{held['url']}/refine", json={"pick": [0, 2], "settings": TOP}).json()
        told = client.events(job["id"])
        assert [told[-1][1], told[0][1]] == ["finished", "stage_started"]
        got = [decoded(client.get(url).content) for url in client.get(job["url"]).json()["stages"][-1]["urls"]]
        request = Request(prompts=("red heart",), num=3, seed=5, settings=FEW)
        alone = next(e.images for e in Cascade.load(SHIPPED).sample(request) if isinstance(e, StageFinished) and e.last)
        assert (torch.stack(got).int() - alone[[0, 2]].int()).abs().max() <= 1

        job = client.start(num=8, settings={"base_16": {"num_steps": 2}, "sr_64": {"num_steps": 100}})
        with client.stream("GET", job["events"]) as answer:
            names = (name for _, name, data in parsed(answer.iter_lines()) if data.get("stage") == "sr_64")
            assert "preview" in names
            os.kill(pids("ServeReplica:stage-sr_64")[0], signal.SIGKILL)
        assert client.finish(job["id"]) == "finished"
        until(lambda: len(pids("ServeReplica:stage-sr_64")) == 2, 60)
