"""Reads of one key take turns with those of others: lists, histories, jobs."""

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx

from cascade.serve.http.limits import Limits
from cascade.serve.http.reads import READS
from tests.serve.keyed import ALICE
from tests.serve.serving import WAIT_S, until


def test_reads_of_one_key_are_answered_a_few_at_a_time(two, monkeypatch):
    """Who lists his history on many connections holds up neither another key nor a probe."""
    serving, alice, bob = two()
    at_once: list[int] = []
    running, lock, may_end = [0], threading.Lock(), threading.Event()

    def jobs(owner: str, *_, **__):
        if owner == "alice":
            with lock:
                running[0] += 1
                at_once.append(running[0])
            may_end.wait(WAIT_S)
            with lock:
                running[0] -= 1
        return {"jobs": [], "next": None}

    monkeypatch.setattr(serving.service, "jobs", jobs)
    with ThreadPoolExecutor(30) as pool:
        asked = [
            pool.submit(httpx.get, f"{serving.url}/v1/jobs", headers=alice.headers, timeout=WAIT_S) for _ in range(30)
        ]
        until(lambda: len(at_once) == READS)
        assert bob.get("/v1/jobs").status_code == 200
        assert bob.get("/healthz").status_code == 200
        may_end.set()
        assert {each.result().status_code for each in asked} == {200}
    assert len(at_once) == 30
    assert max(at_once) == READS


def test_who_does_not_read_what_he_asked_for_keeps_no_turn(two, monkeypatch):
    """More large pages than there are turns: of a key, whose other reads go on, and without one."""
    serving, alice, _ = two()
    page = {"jobs": [{"prompts": ["x" * 16_000_000]}], "next": None}
    listed = threading.Semaphore(0)
    monkeypatch.setattr(serving.service, "jobs", lambda *_: listed.release() or page)
    said = [f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" for path in ("/v1/jobs", "/page.js")]
    said[0] = said[0].replace("\r\n\r\n", f"\r\nx-api-key: {ALICE}\r\n\r\n")
    with contextlib.ExitStack() as stack:
        for each in said:
            for _ in range(2 * READS):
                connection = stack.enter_context(socket.socket())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect(("127.0.0.1", serving.port))
                connection.sendall(50 * each.encode())  # of answers that are not read the first holds up the others
        for _ in range(2 * READS):
            assert listed.acquire(timeout=WAIT_S)
        assert alice.get("/v1/models").status_code == 200
        assert httpx.get(f"{serving.url}/page.css", timeout=WAIT_S).status_code == 200


def test_who_leaves_before_his_turn_holds_no_place(two, monkeypatch):
    serving, alice, bob = two(limits=Limits(connections=64))
    may_end = threading.Event()
    monkeypatch.setattr(serving.service, "jobs", lambda *_: may_end.wait(WAIT_S) and {"jobs": [], "next": None})
    said = f"GET /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: {ALICE}\r\n\r\n".encode()
    for _ in range(200):
        with socket.create_connection(("127.0.0.1", serving.port), timeout=WAIT_S) as connection:
            connection.sendall(said)
    until(lambda: serving.app._working <= READS)
    assert bob.get("/v1/models").status_code == 200
    may_end.set()
    assert alice.get("/v1/jobs").status_code == 200
