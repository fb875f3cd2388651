"""Clients that leave, while a job runs or waits, and clients that come back."""

import os
import socket

from tests.serve.serving import MANY, Gate, Serving, load, slowed, until
from tests.serve.streams import CALL_S, LONG, streaming


def test_a_disconnect_while_running_cancels_the_job(slow: Serving, caplog):
    job = slow.client.start(settings=LONG)["id"]
    with streaming(slow.client, job) as events:
        assert next(event for event in events if event[1] == "preview")
        assert slow.engine.waiting == 1
    until(lambda: slow.engine.waiting == 0)
    assert slow.client.finish(job) == "cancelled"
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_client_that_reconnects_in_time_loses_nothing(serve):
    gate = Gate(free=3)
    client = serve(cascade=gate.cascade).client
    job = client.start(settings={"base_16": {"num_steps": 20}, "sr_64": {"num_steps": 2}})["id"]
    with streaming(client, job) as events:
        after, _, _ = next(event for event in events if event[1] == "preview")
    gate.open()
    rest = client.events(job, after)
    assert rest[0][0] > after
    assert rest[-1][1] == "finished"


def test_a_disconnect_while_queued_cancels_the_job(slow: Serving):
    first = slow.client.start(num=4, settings=MANY)["id"]
    second = slow.client.start(num=4, settings=LONG)["id"]
    assert slow.client.post("/v1/jobs", json={"prompts": ["x"]}).status_code == 429
    with streaming(slow.client, second):
        pass
    until(lambda: slow.engine.waiting == 4)
    assert slow.client.start()["id"]  # its place is free
    slow.client.delete(f"/v1/jobs/{first}")


def test_a_disconnect_of_an_openai_client_cancels_the_job(serve, caplog):
    """The log and the metrics say that they left, not what they would have got."""
    caplog.set_level("INFO", "cascade.serve")
    slow = serve(cascade=slowed(load(), 0.3))  # some 20 calls
    body = {"prompt": "red heart"}
    for extra in ({}, {"stream": True, "partial_images": 1}):
        with socket.create_connection(("127.0.0.1", slow.port)) as connection:
            content = str(body | extra).replace("'", '"').replace("True", "true").encode()
            head = f"POST /v1/images/generations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(content)}\r\n"
            connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + content)
            until(lambda: slow.engine._schedule.running)
        until(lambda: slow.engine.waiting == 0)
        until(lambda: not slow.service._open)
        assert slow.client.get("/v1/jobs").json()["jobs"][0]["state"] == "cancelled"
    assert "Traceback" not in caplog.text
    until(lambda: caplog.text.count("POST /v1/images/generations 499 ") == 2)


def test_a_watcher_that_leaves_is_told_from_one_that_saw_the_end(slow: Serving, caplog):
    caplog.set_level("INFO", "cascade.serve")
    job = slow.client.start()["id"]
    with streaming(slow.client, job) as events:
        next(events)
    until(lambda: "GET /v1/jobs/{job}/events 499 " in caplog.text)
    slow.client.events(job)
    until(lambda: "GET /v1/jobs/{job}/events 200 " in caplog.text)


def test_idle_connections_that_come_and_go_leave_nothing(slow: Serving):
    """Connections that come and go leave nothing behind."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", slow.port)) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            connection.recv(100)
    until(lambda: len(os.listdir("/proc/self/fd")) <= before + 2)


def test_reconnect_gives_what_came_after_and_the_newest_preview(serve):
    slow = serve(cascade=slowed(load(), CALL_S))
    job = slow.client.start(settings={"base_16": {"num_steps": 30}, "sr_64": {"num_steps": 4}})["id"]
    with streaming(slow.client, job) as events:
        seen = [next(events) for _ in range(3)]
    rest = slow.client.events(job, seen[-1][0])
    numbers = [number for number, _, _ in (*seen, *rest)]
    assert numbers == sorted(set(numbers))
    names = [name for _, name, _ in (*seen, *rest) if name != "preview"]
    assert names == ["stage_started", "stage_finished"] * 2 + ["finished"]
    last = rest[-1][0]
    answer = slow.client.get(f"/v1/jobs/{job}/events", headers={"last-event-id": str(last)})
    assert answer.status_code == 204  # an EventSource does not come again
