"""Event streams: slow and stalled readers, many watchers, silence."""

import resource
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cascade.serve.http.limits import Limits
from tests.serve.serving import MANY, Gate, Serving, load, slowed, until
from tests.serve.streams import CALL_S, LONG, streaming


@pytest.mark.matrix
def test_a_slow_reader_does_not_slow_others(serve):
    """A reader that takes nothing is dropped after stall_s; meanwhile others are served, and memory does not grow."""
    serving = serve(limits=Limits(stall_s=2.0, heartbeat_s=0.5, abandon_s=600.0))
    job = serving.client.start(num=4, settings=MANY)["id"]
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        reader.connect(("127.0.0.1", serving.port))
        reader.sendall(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        until(lambda: serving.service.streams.num == 1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(5):
            began = time.monotonic()
            assert serving.client.run()["state"] == "finished"
            assert time.monotonic() - began < 8
        until(lambda: serving.service.streams.num == 0, 60)  # dropped, or all of it fits the buffers
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 64
    assert serving.client.finish(job) == "finished"
    assert [name for _, name, _ in serving.client.events(job)].count("stage_finished") == 2


@pytest.mark.matrix
def test_a_stalled_stream_is_dropped(serve):
    """More previews than the buffers of both sides hold: the server stops making them, then closes."""
    serving = serve(cascade=slowed(load(), 0.03), limits=Limits(stall_s=1.0, abandon_s=600.0))
    job = serving.client.start(num=64, settings={"base_16": {"num_steps": 2}, "sr_64": {"num_steps": 60}})["id"]
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        reader.connect(("127.0.0.1", serving.port))
        reader.sendall(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        until(lambda: serving.service.streams.num == 1)
        until(lambda: serving.service.streams.num == 0, 60)
        assert serving.engine.waiting > 0, "the stream ended with its job, nothing was stalled"
    serving.client.delete(f"/v1/jobs/{job}")
    assert serving.client.finish(job) == "cancelled"


def test_only_the_newest_preview_is_kept(serve):
    """Nobody reads while 40 calls are made; who then comes sees one preview, the newest."""
    gate = Gate(free=40)
    serving = serve(cascade=gate.cascade)
    job = serving.client.start(settings={"base_16": {"num_steps": 60}, "sr_64": {"num_steps": 2}})["id"]
    until(lambda: gate.calls > 40)
    with streaming(serving.client, job) as events:
        seen = [next(events) for _ in range(2)]
    gate.open()
    assert [name for _, name, _ in seen] == ["stage_started", "preview"]
    assert seen[1][2]["step"] == 40


def test_streams_are_bounded(serve):
    serving = serve(cascade=slowed(load(), CALL_S), limits=Limits(streams=1))
    job = serving.client.start(settings=LONG)["id"]
    with streaming(serving.client, job) as events:
        next(events)
        answer = serving.client.get(f"/v1/jobs/{job}/events")
        assert (answer.status_code, serving.client.error(answer)) == (429, "too_many_streams")


def test_many_watchers_of_one_job_see_the_same(slow: Serving):
    job = slow.client.start()["id"]
    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(lambda _: slow.client.events(job), range(6)))
    milestones = [[event for event in each if event[1] != "preview"] for each in seen]
    assert all(each == milestones[0] for each in milestones)


def test_a_silent_stream_has_a_heartbeat(serve):
    serving = serve(cascade=slowed(load(), 1.0), limits=Limits(heartbeat_s=0.2))
    job = serving.client.start()["id"]
    with serving.client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        lines = answer.iter_lines()
        assert any(line.startswith(":") for _, line in zip(range(20), lines, strict=False))
