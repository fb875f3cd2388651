"""Bodies that cost more than they weigh: one byte a chunk, endless heads, bodies where none is read. One refusal, then the end."""

import contextlib
import json
import socket
import threading
import time

import h11
import pytest

from cascade.serve.http import protocol
from cascade.serve.http.keys import Keys
from cascade.serve.http.limits import Limits
from tests.serve.serving import FEW, Serving, read_all, until

KEY = "alice-0123456789abcdef"
HEAD = b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n"
WITH_KEY = b"x-api-key: " + KEY.encode() + b"\r\n"
BODY = json.dumps({"prompts": ["red heart"], "settings": FEW}).encode()


@pytest.fixture
def keyed(serve) -> Serving:
    found = serve(keys=Keys({"alice": KEY}), limits=Limits(bodies_bytes=1 << 20, body_s=20.0))
    found.client.headers["x-api-key"] = KEY
    return found


def chunks(content: bytes, size: int) -> bytes:
    parts = (content[k : k + size] for k in range(0, len(content), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def sent(serving: Serving, content: bytes) -> bytes:
    """The answer, read while all of it is sent, as far as the server takes it."""
    with socket.create_connection(("127.0.0.1", serving.port), timeout=30) as connection:

        def send() -> None:
            with contextlib.suppress(OSError):
                connection.sendall(content)

        sending = threading.Thread(target=send)
        sending.start()
        answer = read_all(connection)
        sending.join()
        return answer


def code(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


def test_a_flood_of_chunks_without_a_key_is_hardly_read(keyed: Serving, monkeypatch, caplog):
    """150,000 of them: it is refused and cut, others are answered meanwhile, nothing is logged about it but its status."""
    events, read = 0, h11.Connection.next_event

    def counted(self):
        nonlocal events
        events += 1
        return read(self)

    monkeypatch.setattr(h11.Connection, "next_event", counted)
    flood = CHUNKED % b"/v1/jobs" + b"\r\n" + chunks(b"x" * 150_000, 1)
    assert code(sent(keyed, flood)) == (401, "invalid_api_key")
    assert events < 5000
    assert keyed.client.get("/healthz").text == "ok"
    assert "Traceback" not in caplog.text


def test_the_events_of_a_turn_are_bounded():
    """Others come in between; nothing of it is lost."""
    connection = protocol.Connection()
    connection.receive_data(CHUNKED % b"/v1/jobs" + b"\r\n" + chunks(b"x" * 500, 1) + b"0\r\n\r\n")
    turns: list[int] = []
    content, is_whole = b"", False
    while not is_whole:
        connection.turn, num = 0, 0
        while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            num += 1
            content += event.data if isinstance(event, h11.Data) else b""
            is_whole = is_whole or isinstance(event, h11.EndOfMessage)
        turns.append(num)
    assert content == b"x" * 500
    assert max(turns) == protocol.EVENTS_A_TURN
    assert len(turns) == 502 // protocol.EVENTS_A_TURN + 1


def test_a_body_in_too_many_tiny_chunks(keyed: Serving, caplog):
    body = BODY[:-1] + b" " * 5000 + b"}"
    head = CHUNKED % b"/v1/jobs" + WITH_KEY + b"\r\n"
    assert code(sent(keyed, head + chunks(body, 1) + b"0\r\n\r\n")) == (413, "bad_request")
    until(lambda: keyed.app._reading == 0)
    ends = WITH_KEY + b"connection: close\r\n\r\n"
    for size in (1, 1024):  # few tiny ones, many that are not
        content = BODY if size == 1 else BODY[:-1] + b" " * 900_000 + b"}"
        answer = sent(keyed, CHUNKED % b"/v1/jobs" + ends + chunks(content, size) + b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 202 "), answer
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (b"x-api-key: wrong\r\n", 401, "invalid_api_key"),
        (b"host: example.test\r\n" + WITH_KEY, 421, "wrong_host"),
        (b"origin: http://example.test\r\n" + WITH_KEY, 403, "foreign_origin"),
        (WITH_KEY + b"content-length: 99999999\r\n", 413, "too_large"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_refusal_ends_the_connection_and_is_read_first(keyed: Serving, caplog, more: bytes, status: int, said: str):
    """By a client that writes 8 MB before it reads; and by one that goes on with what is no chunk, without a traceback."""
    head = HEAD % b"/v1/jobs" if b"host" not in more else (HEAD % b"/v1/jobs").replace(b"host: 127.0.0.1\r\n", b"")
    length = b"" if b"content-length" in more else b"content-length: %d\r\n" % (8 << 20)
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=30) as connection:
        connection.sendall(head + more + length + b"\r\n" + b"x" * (8 << 20))
        assert code(read_all(connection)) == (status, said)
    if b"content-length" not in more:
        content = head + more + b"transfer-encoding: chunked\r\n\r\n" + b"5\r\nhello\r\nno chunk\r\n"
        assert code(sent(keyed, content))[0] in (status, 400)
    until(lambda: keyed.app._working == 0)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("path", [b"/", b"/healthz", b"/readyz", b"/docs", b"/openapi.json"])
def test_no_body_is_read_where_no_key_is_asked_for(keyed: Serving, path: bytes):
    """Open ones hold nothing: uploads with a key go on, and they are closed soon."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(8):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", keyed.port), timeout=30))
            connection.sendall(HEAD % path + b"content-length: 1000000\r\n\r\n" + b"x" * 900_000)
            opened.append(connection)
        body = BODY[:-1] + b" " * 800_000 + b"}"
        answer = keyed.client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 202
        began = time.monotonic()
        assert {code(read_all(each)) for each in opened} == {(400, "no_body_here")}
        assert time.monotonic() - began < 10  # not body_s
    until(lambda: keyed.app._working == 0 and keyed.app._reading == 0)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"a: b\r\n" * 40_000,
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"a: b\r\n" * 200,
    ],
    ids=["240 KB", "200 headers"],
)
def test_a_head_that_is_too_large(keyed: Serving, head: bytes):
    answer = sent(keyed, head + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert code(answer) == (431, "bad_request")
