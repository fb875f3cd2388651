"""Real servers on real loopback sockets for the tests: in a thread of this process, or `python -m cascade.serve` as a child."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import torch

from cascade.engine.engine import Engine
from cascade.pipeline import Cascade
from cascade.serve.api.app import create_app
from cascade.serve.api.service import Service
from cascade.serve.http.connections import listen
from cascade.serve.http.keys import Keys
from cascade.serve.http.limits import Limits
from cascade.serve.http.origins import Origin
from cascade.serve.http.server import Server
from cascade.serve.jobs.store import Store
from stages.stage import Stage

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "cascade" / "shipped" / "emoji_tiny"
ENDED = ("held", "finished", "failed", "cancelled")
FEW = {"base_16": {"num_steps": 2}, "sr_64": {"num_steps": 2}}
MANY = {"base_16": {"num_steps": 100}, "sr_64": {"num_steps": 100}}
WAIT_S = 60.0
LOOPBACK = frozenset({"127.0.0.1", "localhost"})


class Client(httpx.Client):
    """Of one server, with the calls that tests make often."""

    def start(self, **body: Any) -> dict[str, Any]:
        """A job of two steps a stage, where nothing else is said."""
        answer = self.post("/v1/jobs", json={"prompts": ["red heart"], "settings": FEW, "seed": 7} | body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def events(self, job: str, after: int | None = None) -> list[tuple[int, str, dict[str, Any]]]:
        """To the end of the stream."""
        headers = {} if after is None else {"last-event-id": str(after)}
        with self.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            return list(parsed(answer.iter_lines()))

    def finish(self, job: str) -> str:
        """The state a job ends in."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            state = self.get(f"/v1/jobs/{job}").json()["state"]
            if state in ENDED:
                return state
            time.sleep(0.02)
        raise AssertionError(f"job {job} is {state} after {WAIT_S} s")

    def run(self, **body: Any) -> dict[str, Any]:
        """A job when it has ended."""
        job = self.start(**body)["id"]
        self.finish(job)
        return self.get(f"/v1/jobs/{job}").json()

    def error(self, answer: httpx.Response) -> str:
        """The code of a refusal, whose message is one line."""
        said = answer.json()["error"]
        assert "\n" not in said["message"]
        assert said["message"]
        return said["code"]


def parsed(lines: Iterator[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(id, event, data) of a stream; comments and `retry` are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name in ("id", "event", "data"):
            assert name not in fields
            fields[name] = value
        elif not line and fields:
            yield int(fields.get("id", 0)), fields["event"], json.loads(fields["data"])
            fields = {}


class Serving:
    """A server in this process: everything is real but the process."""

    def __init__(
        self,
        cascade: Cascade,
        folder: Path,
        *,
        limits: Limits | None = None,
        keys: Keys | None = None,
        check: Callable[[torch.Tensor], bool] | None = None,
        max_waiting: int = 512,
        max_bytes: int = 1 << 30,
        store: type[Store] = Store,
        keep_s: float = 7 * 86400.0,
        hosts: frozenset[str] = LOOPBACK,
        origins: frozenset[Origin] = frozenset(),
        root_path: str = "",
        proxies: Sequence[str] = (),
        host: str = "127.0.0.1",
        name: str = "emoji_tiny",
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.engine = Engine(cascade, max_waiting=max_waiting, clock=clock).start()
        spare_bytes = (limits or Limits()).free_bytes
        self.store = store(folder, max_bytes=max_bytes, spare_bytes=spare_bytes, keep_s=keep_s)
        self.service = Service(self.engine, self.store, name=name, limits=limits, check=check)
        self.socket = listen(host, 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        ready = threading.Event()
        self.app = create_app(self.service, keys=keys, hosts=hosts, origins=origins, root_path=root_path)
        close = self.service.close
        self.server = Server(
            self.app, close=close, drain_s=0.0, ready=ready.set, proxies=proxies, limits=self.service.limits
        )
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)
        self.thread.start()
        assert ready.wait(WAIT_S)
        self.client = Client(base_url=self.url, timeout=WAIT_S)

    def close(self) -> None:
        """Once or more."""
        self.client.close()
        self.server.told.append(2)
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        self.service.close()
        self.store.close()

    def raw(self, content: bytes, *, timeout_s: float = WAIT_S) -> bytes:
        """The answer to bytes, until the server closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(content)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


class Child:
    """`python -m cascade.serve` as a process of its own. before: a command that runs it."""

    def __init__(self, store: Path, *options: str, before: tuple[str, ...] = ()):
        chosen = () if "--cascade" in options else ("--cascade", str(SHIPPED))
        command = [
            *before,
            sys.executable,
            "-m",
            "cascade.serve",
            "--port",
            "0",
            "--store",
            str(store),
            *chosen,
            *options,
        ]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.log = store.with_suffix(".log")
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=ROOT)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("cascade emoji_tiny at http://127.0.0.1:"), line + self.log.read_text()
        self.url = line.split()[-1].rstrip("/")
        self.client = Client(base_url=self.url, timeout=WAIT_S)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def load() -> Cascade:
    return Cascade.load(SHIPPED)


def slowed(cascade: Cascade, seconds: float) -> Cascade:
    """Every network call takes so much longer; it sleeps, so others have the processor."""
    return around(cascade, lambda found, sigma: time.sleep(seconds))


def poisoned(cascade: Cascade, sigma_max: float) -> Cascade:
    """Rows whose noise starts at just this level come out as NaN."""

    def spoil(found: torch.Tensor, sigma: torch.Tensor) -> None:
        found[(sigma - sigma_max).abs() < 1e-3] = torch.nan

    return around(cascade, spoil)


class Gate:
    """A cascade whose network calls wait, after the first `free` of them, until it is opened: what a test looks at meanwhile stays.

    side: only calls for pictures of so many px count and wait.
    """

    def __init__(self, *, free: int, side: int | None = None, cascade: Cascade | None = None):
        self.free, self.side, self.calls, self._is_open = free, side, 0, threading.Event()
        self.cascade = around(cascade or load(), self._wait)

    def _wait(self, found: torch.Tensor, sigma: torch.Tensor) -> None:
        if self.side in (None, found.shape[-1]):
            self.calls += 1
            if self.calls > self.free:
                self._is_open.wait(WAIT_S)

    def open(self) -> None:
        self._is_open.set()

    def close(self) -> None:
        """For the next job, as it was at first."""
        self._is_open.clear()
        self.calls = 0


def around(cascade: Cascade, then: Callable[[torch.Tensor, torch.Tensor], object]) -> Cascade:
    """`then(x0_hat, sigma)` after each answer of the real networks."""
    for link in cascade.links:
        inner = link.stage.denoise

        def denoise(x, sigma, *given, inner=inner):
            found = inner(x, sigma, *given)
            then(found.x0_hat, sigma)
            return found

        object.__setattr__(link.stage, "denoise", denoise)
        assert isinstance(link.stage, Stage)
    return cascade


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def until(done: Callable[[], object], timeout_s: float = WAIT_S, every_s: float = 0.01) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(every_s)
