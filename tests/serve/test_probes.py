"""What an orchestrator asks: started, alive, ready; by whatever name it likes; and how it ends a server."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from cascade.serve.http import server
from cascade.serve.http.keys import Keys
from tests.serve.serving import ROOT, WAIT_S, Child, Serving, until

KEY = "alice-0123456789abcdef"
PROBES = ("/healthz", "/readyz", "/startupz")
POD = {"host": "10.1.2.3:8000"}


def test_a_dead_engine_is_not_alive(serve, monkeypatch):
    """Nothing but a restart helps: liveness says so, start-up stays told."""
    serving: Serving = serve()
    assert [serving.client.get(path).text for path in PROBES] == ["ok", "ready", "started"]
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    monkeypatch.setattr(serving.engine, "tick", lambda worker=0: sys.exit())
    until(lambda: not serving.engine.is_alive)
    health, ready, started = (serving.client.get(path) for path in PROBES)
    assert (health.status_code, health.text) == (503, "a thread has died: engine")
    assert (ready.status_code, ready.text) == (503, "a thread has died: engine")
    assert started.status_code == 200
    assert serving.client.post("/v1/jobs", json={"prompts": ["x"]}).status_code == 503


@pytest.mark.parametrize("path", PROBES)
def test_probes_are_answered_by_any_name(serve, path: str):
    serving: Serving = serve()
    assert serving.client.get(path, headers=POD).status_code == 200
    assert serving.client.head(path, headers=POD).status_code == 200
    assert serving.client.get("/v1/models", headers=POD).status_code == 421
    assert serving.client.get("/metrics", headers=POD).status_code == 421  # another site's page could read them
    assert serving.client.get("/metrics").status_code == 200


def test_metrics_are_answered_by_any_name_with_a_key(serve):
    serving: Serving = serve(keys=Keys({"collector": KEY}))
    key = {"authorization": f"Bearer {KEY}"}
    assert serving.client.get("/metrics", headers=POD | key).status_code == 200
    assert serving.client.get("/metrics", headers=POD).status_code == 421
    assert serving.client.get("/metrics", headers=POD | {"authorization": "Bearer wrong"}).status_code == 421
    assert serving.client.get("/v1/models", headers=POD | key).status_code == 421


@pytest.mark.matrix
def test_a_server_that_starts_says_so(tmp_path):
    """Alive, not started, not ready; and a request is answered, not held until the models are there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cascade.serve", "--port", str(port), "--store", str(tmp_path / "store")]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=ROOT)
    seen: list[tuple[int, ...]] = []
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            def ask() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    seen.append(tuple(client.get(path).status_code for path in ("/startupz", "/readyz", "/v1/models")))
                    seen[-1] += (client.get("/healthz").status_code,)
                return (200, 200, 200, 200) in seen

            until(ask, 4 * WAIT_S)
            assert seen[0] == (503, 503, 503, 200)
            assert {each[3] for each in seen if len(each) == 4} == {200}
    finally:
        process.terminate()
        assert process.wait(WAIT_S) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_server_that_starts_is_told_to_end(tmp_path, number: signal.Signals, code: int):
    """It ends at once; the log is still JSON to its last line."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--port", str(port), "--store", str(tmp_path / "store"), "--log-json"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cascade.serve", *options], stdout=log, stderr=log, env=env, cwd=ROOT
        )

    def is_starting() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/startupz", timeout=30).status_code == 503
        return False

    try:
        until(is_starting, 4 * WAIT_S)
        process.send_signal(number)
        assert process.wait(WAIT_S) == code
    finally:
        process.kill()
        process.wait()
    said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert said[-1]["message"] == f"{number.name} while the server starts: ended"


def test_a_signal_while_it_starts_is_not_lost_where_exceptions_are():
    """In the callback of a weak reference Python prints what is raised, and goes on."""
    code = (
        "import os, signal, time, weakref; from cascade.serve.http import early\n"
        "early.end_at_once()\n"
        "def gone(_):\n os.kill(os.getpid(), signal.SIGTERM)\n for _ in range(1000): pass\n"
        "thing = set(); reference = weakref.ref(thing, gone); del thing; time.sleep(30); raise SystemExit(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.matrix
def test_sigterm_by_default_is_done_within_22_s(child):
    """With a job that takes longer, watched by nobody, and a body that never ends; the log says what is drained."""
    server: Child = child()
    slow = {"num_steps": 100, "sampler": "heun"}
    job = server.client.start(num=64, settings={"base_16": slow, "sr_64": slow})
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60) as connection:
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.client.get("/readyz").status_code == 503)
        assert server.client.get("/healthz").status_code == 200
        time.sleep(10)
        head = b"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n"
        connection.sendall(head)
        assert server.process.wait(60) == 0
        assert time.monotonic() - began < 22
    log = server.log.read_text()
    assert "SIGTERM: ending, open jobs have 15 s" in log
    assert "no new jobs; for up to 15 s: 1 jobs, 64 images of them" in log
    assert "draining: 1 jobs" in log
    assert "drained: " in log
    assert "Traceback" not in log
    assert child().client.get(job["url"]).json()["state"] == "cancelled"


def test_the_time_of_draining_counts_from_the_signal():
    """However late a busy event loop hears of it."""
    given: list[float] = []

    async def test() -> None:
        found = server.Server(server._not_yet, close=given.append, drain_s=15.0, ready=lambda: None)
        found.handle_exit(signal.SIGTERM, None)
        time.sleep(1.0)
        while not given:
            await found.on_tick(1)
            await asyncio.sleep(0)

    asyncio.run(test())
    assert 0 <= given[0] <= 14


def test_what_still_works_when_all_is_stored_is_not_waited_for():
    """A thread that decodes for who had his answer; the log is whole."""
    code = (
        "import logging, threading, time; from cascade.serve.http import early, logs\n"
        "logs.start(as_json=False); threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "logging.getLogger('cascade.serve').info('drained'); print('said'); early.end(0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "said\n")
    assert done.stderr.endswith("drained\n")


def test_what_hangs_at_the_end_is_left(tmp_path):
    """A thread that never ends, as one in a call of minutes."""
    code = (
        "import threading, time; from cascade.serve.http import logs, server\n"
        "logs.start(as_json=False); server.end_within(0.5)\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("not ended 0 s after the signal; what still ran is lost\n")
