"""`python -m cascade.serve` as a process of its own: one command, exit codes, SIGTERM, kill -9, a full disk, memory."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from tests.data import bombs
from tests.serve.serving import FEW, MANY, ROOT, WAIT_S, Child, Client, b64, until

SLOW = {"base_16": {"num_steps": 100, "sampler": "heun"}, "sr_64": {"num_steps": 100, "sampler": "heun"}}


def refused(*options: str) -> str:
    """The one line with which the command ends with exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "cascade.serve", "--port", "0", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.matrix
def test_mistakes_on_the_command_line_are_one_line(tmp_path):
    store = ("--store", str(tmp_path / "store"))
    assert "no such folder" in refused("--cascade", str(tmp_path / "nowhere"), *store)
    assert "allowed are auto" in refused("--device", "tpu", *store)
    assert "No such file" in refused("--keys", str(tmp_path / "none"), *store)
    assert "never fits --max-waiting 8" in refused("--max-waiting", "8", *store)
    assert "is no name of a host" in refused("--allow-host", "a/b", *store)
    (tmp_path / "file").write_text("")
    assert "file" in refused("--store", str(tmp_path / "file"))
    assert "not-an-address" in refused("--host", "not-an-address", "--no-keys", *store)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another" in refused("--port", port, *store)


def test_listening_beyond_loopback_needs_keys(tmp_path):
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        assert "--keys" in refused("--host", host, "--store", str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("module", "ways"),
    [
        ("cascade.serve", "h11, prometheus_client; uv sync --inexact --extra serve, or pip install -e '.[serve]'"),
        (
            "cascade.serve.on_ray",
            "h11, prometheus_client, ray; uv sync --inexact --extra serve --extra ray, or pip install -e '.[serve,ray]'",
        ),
    ],
    ids=["one machine", "on Ray"],
)
def test_without_the_extra_it_says_which_one(module, ways):
    """As in the environment of the first command: nothing of the extras can be found or imported."""
    code = (
        "import runpy, sys\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "gone = {'fastapi', 'starlette', 'uvicorn', 'prometheus_client', 'h11', 'ray', 'openai', 'matplotlib'}\n"
        "PathFinder.find_spec = staticmethod(lambda name, *rest: None if name.split('.')[0] in gone else find(name, *rest))\n"
        f"sys.argv = ['serve']; runpy.run_module({module!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: cascade.serve needs fastapi, starlette, uvicorn, {ways}\n"


@pytest.mark.matrix
def test_sigterm_drains(child):
    """Open jobs end, new ones are refused with 503, streams get their end, exit code 0."""
    server: Child = child("--drain-s", "60")
    job = server.client.start(num=2, settings=MANY)["id"]
    with server.client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        lines = answer.iter_lines()
        assert any(line == "event: preview" for line in lines)
        server.process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=server.url) as other:
            until(lambda: other.get("/readyz").status_code == 503)
            late = other.post("/v1/jobs", json={"prompts": ["x"]})
            assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
            assert "retry-after" in late.headers
            assert other.get("/healthz").status_code == 200
        rest = list(lines)
    assert "event: finished" in rest
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.log.read_text()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/healthz")


@pytest.mark.matrix
def test_bombs_delay_neither_other_uploads_nor_sigterm(child):
    """Two at once, as many as are decoded at once."""
    server: Child = child("--drain-s", "0.5")
    process = psutil.Process(server.process.pid)
    bomb = {"image": b64(bombs.scans(10_000)), "fit": True}
    good = {"image": b64(bombs.saved(bombs.photo(16, 16))), "settings": {"sr_64": {"num_steps": 1}}}
    server.client.post("/v1/jobs", json=good)

    def spent_s() -> float:
        return sum(process.cpu_times()[:2])

    with ThreadPoolExecutor(2) as pool:
        before = spent_s()
        sent = [pool.submit(httpx.post, f"{server.url}/v1/jobs", json=bomb, timeout=60) for _ in range(2)]
        until(lambda: sum(answer.done() for answer in sent) or spent_s() > before)
        answer = server.client.post("/v1/jobs", json=good)
        assert answer.status_code == 202
        assert spent_s() - before < 3
        assert [each.result().status_code for each in sent] == [422, 422]
        assert "more scans than are decoded" in sent[0].result().json()["error"]["message"]

        sent = [pool.submit(httpx.post, f"{server.url}/v1/jobs", json=bomb, timeout=60) for _ in range(2)]
        until(lambda: sum(answer.done() for answer in sent) or spent_s() > before)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.matrix
def test_sigterm_cancels_jobs_that_take_too_long(child):
    server: Child = child("--drain-s", "0.5")
    job = server.client.start(num=16, settings=SLOW)["id"]
    with server.client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        lines = answer.iter_lines()
        assert any(line == "event: preview" for line in lines)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert "event: cancelled" in list(lines)
    assert server.process.wait(30) == 0
    assert time.monotonic() - began < 10


@pytest.mark.matrix
def test_a_second_signal_hurries_the_first(child):
    server: Child = child("--drain-s", "120")
    job = server.client.start(num=16, settings=SLOW)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.client.get("/readyz").status_code == 503)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0
    assert "Traceback" not in server.log.read_text()
    assert child().client.get(job["url"]).json()["state"] == "cancelled"


@pytest.mark.matrix
@pytest.mark.parametrize("how", ["other tables", "overwritten"])
def test_an_index_that_is_none(child, tmp_path, how):
    store = tmp_path / "store"
    store.mkdir()
    with contextlib.closing(sqlite3.connect(store / "index.sqlite")) as index:
        index.executescript("create table pictures (a)")
    if how == "overwritten":
        (store / "index.sqlite").write_bytes(b"nothing" * 1000)
    assert refused("--store", str(store)).startswith(f"error: --store {store}: index.sqlite:")


@pytest.mark.matrix
def test_ctrl_c_is_130(child):
    server: Child = child()
    server.client.start(num=16, settings=SLOW)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 130
    assert "Traceback" not in server.log.read_text()


@pytest.mark.matrix
def test_kill_9_and_restart(child):
    """Held and finished pictures are there, byte for byte; the job that ran has failed and says why; nothing is left over."""
    server: Child = child()
    held = server.client.run(num=4, seed=3, until="base_16")
    url = held["stages"][0]["urls"][2]
    content = server.client.get(url).content
    seen = server.client.events(held["id"])
    running = server.client.start(num=16, settings=SLOW)["id"]
    with server.client.stream("GET", f"/v1/jobs/{running}/events") as answer:
        last = 0
        for line in answer.iter_lines():
            last = int(line[4:]) if line.startswith("id: ") else last
            if line == "event: preview":
                break
    server.process.kill()
    server.process.wait()
    pictures = Path(server.log.with_suffix("")) / "pictures"
    (pictures / f"{'x' * 24}.png").write_bytes(b"half a picture")
    (pictures / ".1.2.part").write_bytes(b"half a picture")

    again: Child = child()
    assert again.client.get(url).content == content
    events = again.client.events(held["id"])
    assert events == [event for event in seen if event[1] != "preview"]
    assert again.client.events(held["id"], after=events[-2][0]) == events[-1:]
    job = again.client.get(f"/v1/jobs/{running}").json()
    assert (job["state"], job["error"]["code"]) == ("failed", "server_restarted")
    assert again.client.events(running, after=last)[-1][1] == "failed"
    told = again.client.post(f"/v1/jobs/{held['id']}/refine", json={"from": "base_16", "pick": [2]}).json()
    assert again.client.finish(told["id"]) == "finished"
    with contextlib.closing(sqlite3.connect(f"file:{pictures.parent}/index.sqlite?mode=ro", uri=True)) as index:
        known = {row[0] for row in index.execute("select file from pictures")}
    assert {path.name for path in pictures.iterdir()} == known


@pytest.mark.matrix
def test_kill_9_at_any_moment(child):
    """Four times while jobs run: every picture that the index names is whole, and the server starts."""
    urls: list[str] = []
    for k in range(4):
        server: Child = child()
        for url in urls:
            assert server.client.get(url).content.endswith(b"IEND\xaeB`\x82")
        jobs = [server.client.start(num=4, seed=j)["id"] for j in range(6)]
        time.sleep(0.05 + 0.15 * k)
        urls = [
            url
            for job in jobs
            for stage in server.client.get(f"/v1/jobs/{job}").json()["stages"]
            for url in stage["urls"]
        ]
        server.process.kill()
        server.process.wait()
        server.close()


@pytest.mark.skipif(
    subprocess.run(["unshare", "-Urm", "true"], check=False).returncode != 0,
    reason="not permitted here: a mount namespace, for a small disk",
)
@pytest.mark.matrix
@pytest.mark.parametrize("free_mb", [32, 0])
def test_a_full_disk(child, tmp_path, free_mb: int):
    """A real small file system, smaller than --store-mb. Who floods it loses his own oldest pictures; nobody is refused, another
    keeps his. Where others fill the disk, the pictures of who has most make room; where they fill all of it: 507, or jobs that run
    end in `storage_full`. The server lives on and holds no half picture."""
    store, keys = tmp_path / "small", tmp_path / "keys"
    store.mkdir()
    keys.write_text(f"alice: {'a' * 16}\nbob: {'b' * 16}\n")
    script = f'mount -t tmpfs -o size={free_mb + 8}m none "{store}" && exec "$@"'
    server: Child = child(
        "--free-mb",
        str(free_mb),
        "--keys",
        str(keys),
        store=store,
        before=("unshare", "-Urm", "sh", "-c", script, "sh"),
    )
    assert (
        f"MB of the 2048 MB that are allowed it: the disk has no more, of which {free_mb} MB stay"
        in server.log.read_text()
    )
    disk = Path(f"/proc/{server.process.pid}/root{store}")
    with (
        Client(base_url=server.url, timeout=WAIT_S, headers={"x-api-key": "a" * 16}) as alice,
        Client(base_url=server.url, timeout=WAIT_S, headers={"x-api-key": "b" * 16}) as bob,
    ):
        kept = bob.run()["stages"][1]["urls"][0]
        jobs: list[str] = []
        while not jobs or alice.get(jobs[0]).status_code == 200:
            assert len(jobs) < 60
            jobs += [alice.start(num=32, seed=len(jobs) + k)["url"] for k in range(2)]
            assert [alice.finish(url.split("/")[-1]) for url in jobs[-2:]] == ["finished"] * 2
        assert bob.run()["state"] == "finished"
        assert bob.get(kept).status_code == 200

        if free_mb:
            space = os.statvfs(disk)
            (disk / "other").write_bytes(bytes(space.f_bavail * space.f_frsize - (free_mb << 20) + (1 << 20)))
            # the disk is measured again 10 s after pictures went; who asks faster than 10 times a second uses up his jobs a minute
            until(
                lambda: bob.post("/v1/jobs", json={"prompts": ["x"], "settings": FEW}).status_code == 202, every_s=0.5
            )
            assert bob.get(kept).status_code == 200

        with contextlib.suppress(OSError), (disk / "more").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        codes = set()
        for k in range(3):
            answer = alice.post("/v1/jobs", json={"prompts": ["x"], "num": 32, "settings": FEW, "seed": k})
            if answer.status_code == 202:
                said = alice.events(answer.json()["id"])[-1]
                codes |= {said[2]["code"]} if said[1] == "failed" else set()
            else:
                assert answer.status_code == 507
                codes.add(alice.error(answer))
        assert codes == {"storage_full"} if free_mb else codes <= {"storage_full"}
        assert server.client.get("/healthz").text == "ok"
        for path in (disk / "pictures").iterdir():
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
        (disk / "more").unlink()
        assert bob.run()["state"] == "finished"


@pytest.mark.matrix
def test_rss_stays_flat(child):
    """200 jobs, 100 of them after the measurement began, with readers that leave."""
    server: Child = child("--abandon-s", "600", "--store-mb", "4")

    def run(num: int) -> None:
        jobs = [server.client.start(seed=k)["id"] for k in range(num)]
        for job in jobs[::5]:
            with server.client.stream("GET", f"/v1/jobs/{job}/events") as answer:
                next(answer.iter_lines())
        for job in jobs:
            assert server.client.finish(job) == "finished"

    for _ in range(2):
        run(50)
    before = server.rss_mb()
    files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    for _ in range(2):
        run(50)
    assert server.rss_mb() - before < 40
    assert len(os.listdir(f"/proc/{server.process.pid}/fd")) <= files + 5
