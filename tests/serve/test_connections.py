"""Connections that ask for nothing: they hold no place, no descriptor that pictures need, and do not fill the log."""

import contextlib
import io
import logging
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from cascade.serve.http import addresses, calm, connections
from cascade.serve.http.limits import Limits
from tests.serve.serving import FEW, ROOT, Child, Serving, load, read_all, slowed, until

LONG = {"base_16": {"num_steps": 100}, "sr_64": {"num_steps": 2}}
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def connect() -> Iterator:
    """connect(port, source) is a connection from that address of this machine; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def start(port: int, source: str = "127.0.0.1") -> socket.socket:
            made = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))
            return stack.enter_context(made)

        yield start


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them for this process, which is all the clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"a process may open {hard} files here, 2,048 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_healthy(connection: socket.socket) -> bool:
    """What the server says on this connection, which stays open."""
    connection.sendall(HEALTH)
    said = b""
    while not said.endswith(b"\r\n\r\nok") and (more := connection.recv(1 << 16)):
        said += more
    return said.startswith(b"HTTP/1.1 200 ")


@pytest.mark.matrix
def test_1200_idle_connections_harm_nobody(child, connect, descriptors):
    """Of five addresses, at 1,024 descriptors: a job that runs is stored, newcomers are served, the log stays short."""
    server: Child = child(before=("sh", "-c", 'ulimit -n 1024 && exec "$@"', "sh"))
    port = int(server.url.rpartition(":")[2])
    job = server.client.start(num=4, settings={"base_16": {"num_steps": 60}, "sr_64": {"num_steps": 20}})["id"]
    for k in range(1200):
        connect(port, f"127.0.0.{2 + k % 5}")
    with httpx.Client(base_url=server.url, timeout=60) as newcomer:
        assert newcomer.get("/healthz").text == "ok"
        assert newcomer.get("/v1/models").status_code == 200
    assert server.client.finish(job) == "finished"
    pictures = [url for stage in server.client.get(f"/v1/jobs/{job}").json()["stages"] for url in stage["urls"]]
    assert len(pictures) == 8
    assert {server.client.get(url).status_code for url in pictures} == {200}
    assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < 1024 - 128
    log = server.log.read_text()
    assert "Traceback" not in log
    own = [
        line for line in log.splitlines() if re.search(r"(GET|POST) /\S+ 20[02] ", line)
    ]  # it asks until the job is done
    assert len(log) - sum(map(len, own)) < 20_000


def test_idle_connections_give_way_to_newcomers(serve, connect):
    """The one that waited longest goes."""
    serving: Serving = serve(limits=Limits(connections=100, address_connections=50))
    asked = connect(serving.port, "127.0.0.2")
    idle = [connect(serving.port, "127.0.0.2") for _ in range(49)]
    until(lambda: len(serving.server.places._waiting) == 50)
    assert is_healthy(asked)
    until(lambda: len(serving.server.places._waiting) == 50)
    newcomer = connect(serving.port, "127.0.0.2")
    assert is_healthy(newcomer)
    assert idle[0].recv(1) == b""  # closed
    assert is_healthy(asked)
    until(lambda: serving.server.places.num == 50)
    for k in range(120):
        connect(serving.port, f"127.0.0.{3 + k}")
    until(lambda: serving.server.places.num <= 100)
    assert serving.client.get("/v1/models").status_code == 200


def test_connections_that_asked_once_drop_no_newcomer(serve, connect):
    """Who connects and asks a moment later keeps his place, though others take theirs meanwhile; so does who asked before."""
    serving: Serving = serve(limits=Limits(connections=64, address_connections=16))
    kept = connect(serving.port, "127.0.0.99")
    assert is_healthy(kept)
    crowd = [connect(serving.port, f"127.0.0.{2 + k % 8}") for k in range(63)]
    assert all(is_healthy(each) for each in crowd)
    newcomer = connect(serving.port, "127.0.0.98")
    places = serving.server.places
    until(lambda: "127.0.0.98" in places._waiting.values())
    for k in range(40):
        assert is_healthy(connect(serving.port, f"127.0.0.{2 + k % 8}"))
    assert places.num <= 64
    assert is_healthy(newcomer)
    assert is_healthy(kept)


def test_a_proxys_connections_are_not_the_first_to_go():
    """They are many clients'; a socket that listens on :: has its address in another form."""

    class Idle:
        is_dropped = False

        def drop(self) -> None:
            self.is_dropped = True

    places = connections.Places(4, 2, ["192.0.2.7"])
    idle = {Idle(): host for host in ("192.0.2.7", "192.0.2.7", "198.51.100.1", "198.51.100.1")}
    for each, host in idle.items():
        assert places.take(f"::ffff:{host}")
        places.waits(each, host)
    for _ in range(2):
        assert places.drop_one()
    assert [each.is_dropped for each in idle] == [True, False, True, False]


def test_connections_at_work_are_limited_by_address(serve, connect):
    """Refused when they are accepted, in words, and their places are free again when they end."""
    serving: Serving = serve(
        cascade=slowed(load(), 0.05), limits=Limits(connections=24, address_connections=4, abandon_s=600.0)
    )
    job = serving.client.start(settings=LONG)["id"]
    streams = [connect(serving.port, "127.0.0.2") for _ in range(4)]
    for stream in streams:
        stream.sendall(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
    until(lambda: serving.service.streams.num == 4)
    said = read_all(connect(serving.port, "127.0.0.2"))
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 5" in said
    assert b"too_many_connections" in said
    assert serving.client.get("/v1/models").status_code == 200  # another address
    is_full = connections.Places(24, 4, ["127.0.0.2"])
    assert [is_full.take("127.0.0.2") for _ in range(25)] == [True] * 24 + [False]  # a proxy stands for many
    streams[0].close()
    until(lambda: serving.service.streams.num == 3)
    again = connect(serving.port, "127.0.0.2")
    assert is_healthy(again)
    serving.client.delete(f"/v1/jobs/{job}")


def test_health_is_told_when_every_place_is_at_work(serve, connect):
    serving: Serving = serve(
        cascade=slowed(load(), 0.05), limits=Limits(connections=16, address_connections=16, abandon_s=600.0)
    )
    job = serving.client.start(settings=LONG)["id"]
    for k in range(12):
        stream = connect(serving.port, f"127.0.0.{2 + k}")
        stream.sendall(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
    until(lambda: serving.service.streams.num == 12)
    for _ in range(40):
        connect(serving.port, "127.0.0.99")
    places = serving.server.places
    until(lambda: places.num == 16 and len(places._waiting) == 4)
    for path in ("/healthz", "/readyz", "/startupz"):
        with httpx.Client(base_url=serving.url, timeout=30) as probe:
            assert probe.get(path).status_code == 200
    with httpx.Client(base_url=serving.url, timeout=30) as other:
        refused = other.get("/v1/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
    assert refused.headers["retry-after"]
    serving.client.delete(f"/v1/jobs/{job}")


def limited(soft_and_hard: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """python with limits of open files."""
    script = f'ulimit {soft_and_hard} && exec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


def test_the_soft_limit_of_descriptors_is_raised():
    code = (
        "import resource; from cascade.serve.http import descriptors\n"
        "print(descriptors.connections(None), descriptors.connections(700), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    assert limited("-Sn 256 && ulimit -Hn 1024", "-c", code).stdout.split() == ["768", "700", "1024"]


def test_more_connections_than_the_system_allows_are_a_mistake(tmp_path):
    store = ("--port", "0", "--store", str(tmp_path / "store"))
    for limit, more in (("-n 1024", ("--connections", "2000")), ("-n 260", ())):
        done = limited(limit, "-m", "cascade.serve", *store, *more)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "--connections" in done.stderr
        assert "ulimit -n" in done.stderr


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%lo", "fe80::"),
        ("", ""),
    ],
)
def test_an_address_as_one_client_has_it(host: str, client: str):
    assert addresses.client_of(host) == client


def test_a_log_that_is_flooded_counts_what_it_leaves_out():
    text = io.StringIO()
    handler = calm.CalmHandler(text)
    log = logging.Logger("flooded")
    log.addHandler(handler)
    for k in range(5000):
        log.warning("connection %d is refused", k)
        log.info("GET / 404", extra={"said": {"status": 404}})
    log.info("GET / 200", extra={"said": {"status": 200}})
    log.info("another kind")
    handler.close()
    lines = text.getvalue().splitlines()
    assert len(lines) < 400
    assert "GET / 200" in lines
    assert "another kind" in lines
    told = [int(line.split()[0]) for line in lines if line.endswith("were left out")]
    refused = [line for line in lines if line.startswith("connection")]
    assert len(told) == 2
    assert sum(told) + len(refused) + lines.count("GET / 404") == 10_000


@pytest.mark.matrix
def test_garbage_does_not_fill_the_log(child):
    """Its lines are left out and counted."""
    server: Child = child()
    port = int(server.url.rpartition(":")[2])
    for _ in range(600):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"\x16\x03\x01\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 400 ")
    until(lambda: "more lines of" in server.log.read_text(), 30)
    assert server.log.read_text().count("Invalid HTTP request") < 400
    assert server.client.run(settings=FEW)["state"] == "finished"
