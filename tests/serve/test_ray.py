"""Servers on a Ray that others use: of two replicas, each job is found where it lives, and one that dies takes its own jobs only;
stages of their own; several cascades and somebody else's application side by side, of which each ends its own."""

import ast
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
from typing import Any
from unittest import mock

import httpx
import psutil
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
pytestmark = [pytest.mark.matrix, pytest.mark.alone, pytest.mark.timeout(400)]
TOP = {"sr_64": FEW["sr_64"]}
ENV = os.environ | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
LONG = {"base_16": {"num_steps": 100}, "sr_64": {"num_steps": 100}}


OTHER = """
import logging, os, sys
import ray
from ray import serve
from cascade.serve import on_ray
from cascade.serve.http.limits import Limits
from cascade.serve.ray import lease
from cascade.serve.ray.replica import Replica
from tests.serve.serving import SHIPPED

class Frail(Replica):
    def spoil(self, what):
        if what == "engine":
            self.engine.tick = None
        else:
            self.service.writer._queue.put("nobody", "no entry")

    def pid(self):
        return os.getpid()

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Plain:
    def __call__(self):
        return "plain"

def start(name, folder):
    global frail, kept
    kept = lease.take(name, (name,))
    settings = dict(cascade=str(SHIPPED), store=folder, limits=Limits(), store_mb=64, keep_h=1.0, max_waiting=64, rows={},
                    precision="fp32", compile_=None, download=False, log_prompts=False, lease=kept)
    frail = on_ray.deploy({name: (Frail, (0, {}), settings, 1)}, cpus=0, gpus=0, health_s=0.5)[0]

def pid():
    try:
        return frail.pid.remote().result(timeout_s=1)
    except Exception:
        return 0

def begin():
    for turn in range(9):  # Ray gives its own processes 15 s to start, which a busy machine does not
        try:
            return ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
        except Exception:
            ray.shutdown()
            if turn == 8:
                raise

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Ray prints what happens on the cluster
logging.disable(logging.WARNING)
begin()
serve.start(proxy_location="Disabled")
plain = serve.run(Plain.bind(), name="plain", route_prefix=None)
print(repr(ray.get_runtime_context().gcs_address), file=answers, flush=True)
for line in sys.stdin:
    print(repr(eval(line)), file=answers, flush=True)
"""


class Other:
    """Somebody with a Ray cluster and an application on it, who says what an expression is there."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENV,
            cwd=ROOT,
        )
        self.address = self._told()

    def _told(self) -> Any:
        assert self.process.stdout
        return ast.literal_eval(self.process.stdout.readline())

    def says(self, expression: str) -> Any:
        assert self.process.stdin
        print(expression, file=self.process.stdin, flush=True)
        return self._told()

    def applications(self) -> set[str]:
        return set(self.says("sorted(serve.status().applications)"))

    def close(self) -> None:
        try:
            self.process.communicate(timeout=60)
        finally:
            self.process.kill()


class Cluster:
    """`python -m cascade.serve.on_ray` as a process of its own, ready to answer."""

    def __init__(self, folder: Path, *options: str):
        command = [sys.executable, "-m", "cascade.serve.on_ray", "--cascade", str(SHIPPED), *options]
        command += ["--port", "0", "--drain-s", "5"]
        self.log = folder / "log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--store", str(folder / "store")],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=ENV,
                cwd=ROOT,
            )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("cascade emoji_tiny on "), self.log.read_text()
        self.url = line.split()[-1].rstrip("/")
        self.name = re.search(r"networks of stages as (\S+)", self.log.read_text())[1]

    def close(self, number: int = signal.SIGTERM) -> None:
        """Once or more."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()
        assert code == (-number if number == signal.SIGKILL else 0)
        told = self.log.read_text()
        assert not any(noise in told for noise in ("will not be applied", "Token authentication", "Traceback")), told


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Cluster]:
    found = Cluster(folder, *options)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.close()


@pytest.fixture(scope="module")
def other() -> Iterator[Other]:
    found = Other()
    yield found
    found.close()


@pytest.fixture(scope="module")
def server(other, tmp_path_factory) -> Iterator[Cluster]:
    said = ("--address", other.address, "--replicas", "2", "--max-steps", "150")
    with serving(tmp_path_factory.mktemp("ray"), *said) as found:
        yield found
    assert other.applications() == {"plain"}


@pytest.fixture
def client(server) -> Iterator[Client]:
    with Client(base_url=server.url, timeout=60) as found:
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


def starts_ray(pid: int) -> bool:
    """Whether a process has begun to start a Ray of its own."""
    return any("gcs_server" in " ".join(each.cmdline()) for each in psutil.Process(pid).children(recursive=True))


def waiting(client: Client, replica: int) -> int:
    return number(client.get(f"/metrics?replica={replica}").text, "cascade_waiting_images")


def number(metrics: str, series: str) -> int:
    """Now."""
    return int(float(re.search(rf"^{re.escape(series)} (\S+)$", metrics, re.MULTILINE)[1]))


def test_jobs_run_on_both_replicas_from_start_to_pictures(client):
    jobs = [client.start(num=2, seed=seed, settings=LONG if seed == 0 else FEW) for seed in range(4)]
    assert {job["id"][0] for job in jobs} == {"0", "1"}
    for job in jobs:
        told = client.events(job["id"])
        assert told[-1][1] == "finished"
        wanted = {"stage_started", "stage_finished"} | ({"preview"} if job is jobs[0] else set())
        assert {name for _, name, _ in told} >= wanted
        url = client.get(job["url"]).json()["stages"][-1]["urls"][1]
        assert client.get(url).content.startswith(b"\x89PNG")
    assert [job["id"] for job in client.get("/v1/jobs").json()["jobs"]][:4] == [job["id"] for job in reversed(jobs)]
    assert len(client.get("/v1/jobs?limit=2").json()["jobs"]) == 2
    told = client.get("/metrics").text
    for series in ('cascade_job_seconds_count{replica="%d"}', 'cascade_stage_calls_total{replica="%d",stage="sr_64"}'):
        assert all(number(told, series % replica) > 0 for replica in range(2)), told
    assert 'cascade_http_requests_total{method="POST",route="/v1/jobs",status="202"}' in told


def test_refining_finds_its_replica(client):
    held = client.start(num=3, until="base_16")
    assert client.events(held["id"])[-1][1] == "held"
    answer = client.post(f"{held['url']}/refine", json={"pick": [2], "settings": TOP})
    assert answer.status_code == 202, answer.text
    assert answer.json()["id"][0] == held["id"][0]
    assert client.finish(answer.json()["id"]) == "finished"


def test_the_page_the_models_and_missing_paths_are_answered(client):
    assert "<title>" in client.get("/").text
    assert client.get("/v1/models").json()["data"][0]["id"] == "emoji_tiny"
    assert client.get("/readyz").text == "ready"
    for path in ("/v1/jobs/0-nothing", "/v1/jobs/7-nothing", "/v1/jobs/x", "/v1/jobs/0-a/../../etc", "/nothing"):
        assert client.get(path).status_code == 404, path
    assert client.get("/v1/jobs?limit=x").status_code == 422
    answer = client.post("/v1/jobs", json={"prompts": ["a"], "num": 10**9})
    assert (answer.status_code, client.error(answer)) == (422, "invalid_request")
    assert client.post("/v1/jobs", content=b"{").status_code == 422


def test_cancelled_and_left_jobs_free_their_places(client):
    job = client.start(num=4, settings=LONG)
    assert client.delete(job["url"]).status_code == 204
    assert client.finish(job["id"]) == "cancelled"
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/images/generations", json={"prompt": "red heart", "n": 10}, timeout=0.5)
    with client.stream("POST", "/v1/images/generations", json={"prompt": "red heart", "n": 10, "stream": True}) as left:
        assert left.status_code == 200
    until(lambda: waiting(client, 0) + waiting(client, 1) == 0)


def test_a_full_queue_is_refused_before_the_stream(client):
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


def test_a_replica_that_dies_takes_its_own_jobs_only(server, client):
    """Its stream ends with one line, the other replica goes on, Ray starts it again and its stored pictures are there."""
    kept = [client.start(seed=seed) for seed in range(2)]
    assert all(client.finish(job["id"]) == "finished" for job in kept)
    lost = client.start(num=8, settings=LONG)
    place = lost["id"][0]
    with client.stream("GET", lost["events"]) as answer:
        lines = answer.iter_lines()
        assert next(lines)
        for pid in pids(f"ServeReplica:{server.name}-{place}:"):
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
        (["--stage", "base_16.guide=1"], "no stage 'base_16.guide', the cascade has base_16, sr_64"),
        (["--stage", "sr_64=1", "--stage", "sr_64=2"], "named before"),
        (["--host", "0.0.0.0"], "--keys"),
        (["--cascade", "nowhere"], "no such folder"),
        (["--precision", "fp8"], "allowed are fp32 and bf16"),
        (["--name", "a/b"], "--name 'a/b': take up to 60 letters"),
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


def test_stages_with_replicas_of_their_own(other, tmp_path):
    """One server without a weight, a base network and two of the second stage: the pictures of one process, and a network that is
    killed in the midst of a job costs it nothing."""
    said = ("--address", other.address, "--stage", "base_16=1", "--stage", "sr_64=2", "--name", "apart")
    with serving(tmp_path, *said) as server, Client(base_url=server.url, timeout=60) as client:
        assert other.applications() >= {"apart-0", "apart-stage-base_16", "apart-stage-sr_64"}
        assert len(pids("ServeReplica:apart-stage-sr_64")) == 2
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
            os.kill(pids("ServeReplica:apart-stage-sr_64")[0], signal.SIGKILL)
        assert client.finish(job["id"]) == "finished"
        until(lambda: len(pids("ServeReplica:apart-stage-sr_64")) == 2, 60)


def refused(folder: Path, *options: str) -> str:
    """The one line of an error at the start."""
    command = [sys.executable, "-m", "cascade.serve.on_ray", "--port", "0", "--store", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENV, timeout=200, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_cascades_side_by_side_end_their_own(other, server, client, tmp_path):
    """One of two leaves, the other and somebody else's application go on; its name and its store are taken until then."""
    address = ("--address", other.address)
    with serving(tmp_path, *address, "--name", "second") as second, Client(base_url=second.url, timeout=60) as asked:
        assert asked.run(num=1)["state"] == client.run(num=1)["state"] == "finished"
        before = other.applications()
        assert before == {"plain", "second-0", f"{server.name}-0", f"{server.name}-1"}
        assert re.fullmatch(r"emoji_tiny-[0-9a-f]{8}", server.name)
        said = refused(tmp_path / "free", *address, "--name", "second")
        assert said == "error: --name second: a cascade of this name is served on this cluster; choose another"
        assert other.applications() == before
        job = client.start(num=4, settings=LONG)
        second.close()
    assert other.applications() == before - {"second-0"}
    assert client.finish(job["id"]) == "finished"
    assert other.says("plain.remote().result()") == "plain"


def test_a_server_that_was_killed_leaves_nothing_on_the_cluster(other, server, tmp_path):
    """Its replicas end by themselves, and the same command goes on: with its name, and the pictures of its store."""
    said = ("--address", other.address, "--name", "killed")
    with serving(tmp_path, *said) as first, Client(base_url=first.url, timeout=60) as client:
        kept = client.run(num=1)
        first.close(signal.SIGKILL)
    with serving(tmp_path, *said) as second, Client(base_url=second.url, timeout=60) as client:
        assert client.get(kept["stages"][-1]["urls"][0]).content.startswith(b"\x89PNG")
        assert client.run(num=1)["state"] == "finished"
        second.close(signal.SIGKILL)
    until(lambda: other.applications() == {"plain", f"{server.name}-0", f"{server.name}-1"}, 60)
    assert not pids("ServeReplica:killed")


def test_a_store_that_another_server_uses_is_told_in_a_line(other, server):
    """By the replica that needs it, wherever it is; what was started for it is gone."""
    before = other.applications()
    store = server.log.with_name("store")
    said = refused(store, "--address", other.address)
    assert said == f"error: --store {store}/replica-0: another server uses it; choose another folder"
    assert other.applications() == before


def test_a_ray_of_its_own_ends_with_a_server_that_was_killed(tmp_path):
    with serving(tmp_path) as server, Client(base_url=server.url, timeout=60) as client:
        assert client.run(num=1)["state"] == "finished"
        assert pids(f"ServeReplica:{server.name}-0:")
        server.close(signal.SIGKILL)
    until(lambda: not pids(f"ServeReplica:{server.name}-0:"), 60)


def test_a_signal_while_it_starts_ends_it_at_once(tmp_path):
    """Before Ray is there, which has a handler of its own, and after."""
    for said in ("while Ray starts", "starting 1 servers"):
        log = tmp_path / said.replace(" ", "-")
        command = [sys.executable, "-m", "cascade.serve.on_ray", "--port", "0", "--store", str(tmp_path / "store")]
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, env=ENV, cwd=ROOT)
        try:
            if said == "while Ray starts":
                until(lambda process=process: starts_ray(process.pid) or process.poll() is not None, 60)
            else:
                until(lambda log=log, said=said: said in log.read_text(), 120)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
        assert "SIGTERM while the server starts: ended" in log.read_text()
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("what", ["engine", "writer"])
def test_a_replica_whose_thread_has_died_is_replaced(other, tmp_path, what):
    """Whose process lives; its store is there for the one that comes."""
    other.says(f"start({what!r}, {str(tmp_path)!r})")
    before = other.says("pid()")
    assert before
    other.says(f"frail.spoil.remote({what!r}).result()")
    until(lambda: other.says("pid()") not in (0, before), 120)
    assert other.says("frail.load.remote().result()") == 0
    other.says(f"serve.delete({what!r})")
