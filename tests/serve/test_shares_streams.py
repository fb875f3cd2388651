"""Streams are shared among keys: how many are open, and previews of many jobs."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cascade.serve.http import limits
from cascade.serve.http.keys import Keys, Share
from cascade.serve.http.limits import Limits
from cascade.serve.http.reads import READS
from tests.serve.keyed import ALICE, BOB, BOTH, LONG
from tests.serve.serving import WAIT_S, Serving, load, slowed, until


def streaming(serving: Serving, job: str, key: str) -> tuple[socket.socket, int]:
    """A stream that stays open, and the status of its answer."""
    connection = socket.create_connection(("127.0.0.1", serving.port), timeout=WAIT_S)
    connection.sendall(
        f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n\r\n".encode()
    )
    return connection, int(connection.recv(15).split()[1])


@pytest.mark.parametrize(("known", "fits"), [(None, [8]), (Keys(BOTH), [4, 2])])
def test_streams_in_a_burst(two, known, fits: list[int]):
    """Never more than the limit; of a key never more than it leaves for others, who find room."""
    serving, *clients = two(keys=known, limits=Limits(streams=8, abandon_s=600.0))
    opened: list[socket.socket] = []
    jobs = []
    for client, key, fit in zip(clients, (ALICE, BOB), fits, strict=False):
        jobs.append((client, client.start(settings=LONG)))
        with ThreadPoolExecutor(24) as pool:
            found = list(pool.map(lambda _, job=jobs[-1][1]["id"], key=key: streaming(serving, job, key), range(24)))
        opened += [connection for connection, _ in found]
        assert sorted(status for _, status in found) == [200] * fit + [429] * (24 - fit)
    assert serving.service.streams.num == sum(fits)
    for connection in opened:
        connection.close()
    until(lambda: serving.service.streams.num == 0, WAIT_S)
    for client, job in jobs:
        client.delete(job["url"])


def test_a_stream_that_never_begins_gives_its_place_back():
    seen: list[int] = []
    streams = limits.Streams(1, seen.append)
    streams.reserve("")
    with streams.reserve("") as place:
        assert streams.num == 1
    del place
    assert (streams.num, seen) == (0, [1, 0, 1, 0])


def test_many_jobs_of_streams_are_looked_up_in_turn(two, monkeypatch):
    serving, alice, bob = two()
    found, looking, may_end, lock = serving.service.find_all, [0, 0], threading.Event(), threading.Lock()

    def find_all(owner, numbers):
        with lock:
            looking[:] = looking[0] + 1, max(looking[1], looking[0] + 1)
        may_end.wait(WAIT_S)
        with lock:
            looking[0] -= 1
        return found(owner, numbers)

    monkeypatch.setattr(serving.service, "find_all", find_all)
    job = alice.start(settings=LONG)
    with ThreadPoolExecutor(30) as pool:
        opened = [pool.submit(feeding, serving, job["id"], ALICE) for _ in range(30)]
        until(lambda: looking[0] == READS)
        assert bob.get("/v1/jobs").status_code == 200
        may_end.set()
        connections, statuses = zip(*(each.result() for each in opened), strict=True)
        for connection in connections:
            connection.close()
    assert set(statuses) == {200}
    assert looking[1] == READS
    alice.delete(job["url"])


def feeding(serving: Serving, jobs: str, key: str) -> tuple[socket.socket, int]:
    """A stream of several jobs that stays open, and the status of its answer."""
    connection = socket.create_connection(("127.0.0.1", serving.port), timeout=WAIT_S)
    connection.sendall(f"GET /v1/events?jobs={jobs} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {key}\r\n\r\n".encode())
    return connection, int(connection.recv(15).split()[1])


def test_streams_of_one_key(two):
    """As many as its limit says, whatever the server's would allow; the keys' file may allow more."""
    serving, alice, bob = two(keys=Keys(BOTH, {"bob": Share(streams=5)}), limits=Limits(key_streams=3, abandon_s=600.0))
    for client, key, fit in ((alice, ALICE, 3), (bob, BOB, 5)):
        job = client.start(settings=LONG)
        opened = [streaming(serving, job["id"], key) for _ in range(8)]
        assert [status for _, status in opened] == [200] * fit + [429] * (8 - fit)
        for connection, _ in opened:
            connection.close()
        client.delete(job["url"])


@pytest.mark.matrix
def test_many_streams_of_many_jobs_are_told_as_many_previews_as_few(two):
    """Ten streams of four jobs each; all of these have previews, and the end is told to all."""
    slow = {"num_steps": 100, "sampler": "heun"}
    serving, alice, _ = two(cascade=slowed(load(), 0.05))
    serving.service.pace.per_s = 10.0
    jobs = [alice.start(settings={"base_16": slow, "sr_64": slow}) for _ in range(4)]
    names = ",".join(job["id"] for job in jobs)
    opened = [feeding(serving, names, ALICE)[0] for _ in range(10)]
    read: list[list[bytes]] = [[] for _ in opened]

    def listen(connection: socket.socket, parts: list[bytes]) -> None:
        while part := connection.recv(1 << 16):
            parts.append(part)

    def previews() -> int:
        return sum(b"".join(parts).count(b"event: preview\n") for parts in read)

    with ThreadPoolExecutor(len(opened)) as pool, contextlib.ExitStack() as stack:
        for connection in opened:
            stack.enter_context(contextlib.suppress(OSError))
            stack.callback(connection.shutdown, socket.SHUT_RDWR)
        listening = [pool.submit(listen, *each) for each in zip(opened, read, strict=True)]
        until(lambda: previews() >= len(opened) * len(jobs))  # each pair's first one comes at once
        seen, began = previews(), time.monotonic()
        time.sleep(2)
        assert previews() - seen <= 2 * 10 * (time.monotonic() - began)
        for job in jobs:
            alice.delete(job["url"])
        until(lambda: all(b"".join(parts).count(b"event: cancelled\n") == len(jobs) for parts in read))
        for each in listening:
            each.result()
    for connection in opened:
        connection.close()
