"""Bytes that are no HTTP, at any place of a request: 400 or closed, no traceback."""

import contextlib
import socket
import time

from cascade.serve.http.limits import Limits
from tests.serve.keyed import ALICE, LONG
from tests.serve.serving import WAIT_S, until


def test_a_field_name_of_megabytes(serve):
    serving = serve()
    began = time.monotonic()
    answer = serving.client.post(
        "/v1/jobs", content=b'{"' + b"promts" * 2_400_000 + b'": 1}', headers={"content-type": "application/json"}
    )
    assert time.monotonic() - began < 5
    assert answer.status_code == 422
    assert len(answer.content) < 1000
    answer = serving.client.post("/v1/jobs", json={"promts": ["x"]})
    assert "did you mean prompts?" in answer.text


BAD = (
    b"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: http://evil.example\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\nzz\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nhost: elsewhere\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
    b"POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"POST /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 3\r\n\r\nabcGARBAGE\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nGET /healthz HTTP/9\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\nx-request-id: \xff\xfe\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"GET http://[::1 HTTP/1.1\r\nhost: [::1\r\n\r\n",
    b"HEAD /v1/jobs/%00%ff/events?after=%00 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
)


def test_nobody_without_a_key_can_write_a_traceback_into_the_log(two, caplog):
    """In one piece and byte by byte, with what follows cut off; the connection is closed and the server goes on."""
    serving, alice, _ = two(limits=Limits(body_s=2.0))
    for content in BAD:
        for size in (len(content), 7):
            with socket.create_connection(("127.0.0.1", serving.port), timeout=WAIT_S) as connection:
                with contextlib.suppress(OSError):
                    for k in range(0, len(content), size):
                        connection.sendall(content[k : k + size])
                        time.sleep(0 if size > 7 else 0.001)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass
    assert alice.get("/v1/models").status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR" or record.exc_info], caplog.text


def test_a_bad_chunk_in_the_midst_of_a_stream(two, caplog):
    """What comes after the head of a request whose answer has begun."""
    serving, alice, _ = two()
    job = alice.start(settings=LONG)
    with socket.create_connection(("127.0.0.1", serving.port), timeout=WAIT_S) as connection:
        head = f"GET {job['events']} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {ALICE}\r\n"
        connection.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            connection.sendall(b"0\r\n\r\nzz\r\n\x00\r\n\r\n")
            connection.settimeout(0.5)
            while connection.recv(1 << 16):
                pass
    alice.delete(job["url"])
    assert alice.finish(job["id"]) in ("cancelled", "finished")  # the answer may have been told to its end
    until(lambda: serving.service.streams.num == 0)
    assert not [record for record in caplog.records if record.levelname == "ERROR" or record.exc_info], caplog.text
