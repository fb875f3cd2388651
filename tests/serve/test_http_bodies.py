"""Bodies and heads that are too large, of a wrong length, too slow or too many."""

import json
import socket
import time

import pytest

from cascade.serve.http.limits import Limits
from tests.serve.bodies import GOOD, JSON, jobs
from tests.serve.serving import Client, Serving, read_all, until


def test_a_body_of_50_mb_is_refused(client: Client, serving: Serving):
    content = b'{"prompts": ["' + b"x" * (50 << 20) + b'"]}'
    answer = client.post("/v1/jobs", content=content, headers=JSON)
    assert answer.status_code == 413
    assert client.error(answer) == "too_large"
    assert serving.app._reading == 0  # nothing of it is still counted
    assert 'cascade_refused_total{code="too_large"} 1.0' in client.get("/metrics").text


def test_a_body_of_50_mb_without_a_length_is_refused(client: Client):
    parts = (b"x" * (1 << 20) for _ in range(50))
    answer = client.post("/v1/jobs", content=parts, headers=JSON)
    assert answer.status_code == 413


@pytest.mark.parametrize("length", ["-5", "1e9", "99999999999999999999999"])
def test_a_content_length_that_is_no_length_is_refused(serving: Serving, length: str):
    head = f"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    answer = serving.raw(head.encode() + b"{}", timeout_s=5.0)
    assert answer.split()[1] in (b"400", b"413")


@pytest.mark.parametrize(("version", "length"), [("1.1", "content-length: 5\r\n"), ("1.0", "")])
def test_a_body_whose_end_is_told_in_two_ways(serving: Serving, version: str, length: str):
    """What one of two servers takes for a body is a request for the other: one answer, and the connection ends."""
    head = f"POST /v1/jobs HTTP/{version}\r\nhost: 127.0.0.1\r\n{length}transfer-encoding: chunked\r\n\r\n"
    answer = serving.raw(head.encode() + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert answer.split()[1] == b"400"
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1 ") == 1


def many(num: int, fill: str) -> dict[str, bytes]:
    """Bodies of `num` wrong values, each of which could cost an error of its own."""
    pairs = ",".join(f'"k{k}":{fill}' for k in range(num))
    return {
        "settings of a stage": b'{"settings":{"base_16":{%s}}}' % pairs.encode(),
        "stages": b'{"settings":{%s}}' % pairs.encode(),
        "a list": b'{"settings":{"base_16":{"guidance_interval":[%s]}}}' % ",".join([fill] * num).encode(),
        "fields": b"{%s}" % pairs.encode(),
        "prompts": b'{"prompts":[%s]}' % ",".join([fill] * num).encode(),
        "labels": b'{"labels":[%s]}' % ",".join([fill] * num).encode(),
        "seeds": b'{"seed":[%s]}' % ",".join([fill] * num).encode(),
    }


@pytest.mark.matrix
@pytest.mark.alone  # it measures time: 2.5 s were seen beside a browser
@pytest.mark.parametrize(
    ("num", "status", "fill"), [(40_000, 422, "null"), (40_000, 422, "1"), (40_000, 422, "{}"), (800_000, 413, "null")]
)
def test_a_million_wrong_values_are_refused_in_time(client: Client, num: int, status: int, fill: str):
    """The event loop is not held up by saying what is wrong with each."""
    for name, body in many(num, fill).items():
        began = time.monotonic()
        answer = client.post("/v1/jobs", content=body, headers=JSON)
        assert answer.status_code == status, (name, answer.text)
        client.error(answer)
        assert time.monotonic() - began < 1.5, name


def test_half_a_body_makes_no_job(client: Client, serving: Serving):
    before = jobs(client)
    body = json.dumps(GOOD).encode()
    head = b"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"
    with socket.create_connection(("127.0.0.1", serving.port)) as connection:
        connection.sendall(head + body)
        time.sleep(0.2)
    time.sleep(0.3)
    assert jobs(client) == before


def test_slow_requests_time_out(serve):
    """A head or a body that does not come holds no place."""
    serving = serve(limits=Limits(body_s=0.5))
    head = (
        b"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    began = time.monotonic()
    answer = serving.raw(head)
    assert answer.split()[1] == b"408"
    assert time.monotonic() - began < 5


@pytest.mark.matrix
def test_a_head_that_never_ends_times_out(serve, monkeypatch):
    monkeypatch.setattr("cascade.serve.http.protocol.HEAD_S", 0.5)
    serving = serve()
    began = time.monotonic()
    assert serving.raw(b"GET / HTTP/1.1\r\nhost: 127") == b""
    assert time.monotonic() - began < 5
    with socket.create_connection(("127.0.0.1", serving.port)) as connection:  # nor the second one of a connection
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nGET /he")
        connection.settimeout(10)
        assert read_all(connection).endswith(b"ok")
    assert serving.client.get("/healthz").text == "ok"


def test_many_bodies_at_once_are_bounded(serve):
    serving = serve(limits=Limits(bodies_bytes=1 << 20))
    head = (
        b"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 900000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", serving.port)) as first:
        first.sendall(head + b"x" * 800_000)
        until(lambda: serving.app._reading == 800_000)
        answer = serving.client.post("/v1/jobs", content=b"x" * 800_000, headers=JSON)
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
    assert serving.client.post("/v1/jobs", json=GOOD).status_code == 202
