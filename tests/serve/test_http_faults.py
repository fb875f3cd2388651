"""What goes wrong while a server runs: one request's trouble is nobody else's."""

import ast
import contextlib
import os
import resource
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch

from cascade.output.pictures import save_png
from cascade.serve.api import service
from cascade.serve.http.limits import Limits, Memory
from cascade.serve.jobs.store import Store
from stages import sampling
from tests.serve.serving import FEW, MANY, ROOT, Client, Gate, Serving, around, load, parsed, poisoned, slowed, until

CALL_S = 0.05
LONG = {"base_16": {"num_steps": 100}, "sr_64": {"num_steps": 2}}  # 5 s and more on a slowed cascade


@pytest.fixture
def slow(serve) -> Serving:
    """Every call takes CALL_S longer."""
    return serve(cascade=slowed(load(), CALL_S), limits=Limits(abandon_s=0.3), max_waiting=8)


@contextlib.contextmanager
def streaming(client: Client, job: str):
    with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        yield parsed(answer.iter_lines())


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


def test_a_full_queue_refuses_with_429(slow: Serving):
    jobs = [slow.client.start(num=4, settings=LONG)["id"] for _ in range(2)]
    answer = slow.client.post("/v1/jobs", json={"prompts": ["x"]})
    assert answer.status_code == 429
    assert slow.client.error(answer) == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1
    assert slow.client.get("/readyz").status_code == 200
    assert len(slow.client.get("/v1/jobs").json()["jobs"]) == 2  # nothing is left of the refused one
    for job in jobs:
        slow.client.delete(f"/v1/jobs/{job}")
        assert slow.client.finish(job) == "cancelled"
    assert slow.client.post("/v1/jobs", json={"prompts": ["x"]}).status_code == 202


def test_open_jobs_of_one_key_are_bounded(serve):
    serving = serve(cascade=slowed(load(), CALL_S), limits=Limits(open_jobs=2))
    for _ in range(2):
        serving.client.start(settings=LONG)
    answer = serving.client.post("/v1/jobs", json={"prompts": ["x"]})
    assert (answer.status_code, serving.client.error(answer)) == (429, "too_many_jobs")


def test_streams_are_bounded(serve):
    serving = serve(cascade=slowed(load(), CALL_S), limits=Limits(streams=1))
    job = serving.client.start(settings=LONG)["id"]
    with streaming(serving.client, job) as events:
        next(events)
        answer = serving.client.get(f"/v1/jobs/{job}/events")
        assert (answer.status_code, serving.client.error(answer)) == (429, "too_many_streams")


def test_cancelling_at_any_moment_leaves_a_working_engine(serving: Serving):
    """At every moment of a job's life; afterwards nothing waits and the engine still serves."""
    client = serving.client
    for k in range(12):
        job = client.start()
        time.sleep(0.01 * k)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _, url=job["url"]: client.delete(url).status_code, range(4)))
        assert answers == [204] * 4
        assert client.finish(job["id"]) in ("cancelled", "finished")
        last = client.events(job["id"])[-1]
        assert last[1] == client.get(job["url"]).json()["state"]
    until(lambda: serving.engine.waiting == 0)
    assert client.run()["state"] == "finished"


def test_unknown_jobs_are_not_found(client: Client):
    for method, path in (("DELETE", ""), ("GET", ""), ("GET", "/events"), ("POST", "/refine")):
        answer = client.request(method, f"/v1/jobs/unknown{path}", json={} if method == "POST" else None)
        assert (answer.status_code, client.error(answer)) == (404, "not_found")


def test_cancel_frees_its_place_within_one_call(serve):
    gate = Gate(free=2)
    serving = serve(cascade=gate.cascade)
    job = serving.client.start(num=8, settings=LONG)
    until(lambda: gate.calls == 3)
    serving.client.delete(job["url"])
    gate.open()
    until(lambda: serving.engine.waiting == 0)
    assert gate.calls == 3


def test_out_of_memory_fails_the_job_and_the_next_works(serve, monkeypatch):
    """The request fails, the next works; three in a row make the server not ready, one that works makes it ready."""
    is_full = threading.Event()

    def fail(found: torch.Tensor, sigma: torch.Tensor) -> None:
        if is_full.is_set():
            raise MemoryError("cannot allocate memory")

    serving = serve(cascade=around(load(), fail))
    is_full.set()
    for k in range(3):
        assert serving.client.get("/readyz").status_code == 200, k
        job = serving.client.run()
        assert (job["state"], job["error"]["code"]) == ("failed", "out_of_memory")
    until(lambda: serving.client.get("/readyz").status_code == 503)
    assert serving.client.get("/healthz").status_code == 200
    answer = serving.client.post("/v1/images/generations", json={"prompt": "red heart"})
    assert (answer.status_code, serving.client.error(answer)) == (503, "out_of_memory")
    monkeypatch.setattr(Memory, "for_s", 0.1)
    time.sleep(0.1)
    assert serving.client.get("/readyz").status_code == 200  # else one that gets no jobs would never be ready again
    monkeypatch.undo()
    assert serving.client.get("/readyz").status_code == 503
    is_full.clear()
    assert serving.client.run()["state"] == "finished"
    until(lambda: serving.client.get("/readyz").status_code == 200)


def test_nan_in_a_network_fails_its_job_only(serve):
    """That request fails, with stage and call; those in the same calls finish."""
    serving = serve(cascade=poisoned(load(), 70.0))
    bad = {"base_16": {"num_steps": 10, "sigma_max": 70.0}, "sr_64": {"num_steps": 2}}
    good = [serving.client.start(settings=LONG)["id"] for _ in range(3)]
    job = serving.client.start(settings=bad)["id"]
    name, said = serving.client.events(job)[-1][1:]
    assert name == "failed"
    assert (said["stage"], said["code"]) == ("base_16", "sampling_failed")
    assert "NaN" in said["message"]
    assert "call 1 of 10" in said["message"]
    assert [serving.client.finish(each) for each in good] == ["finished"] * 3
    assert not serving.client.get(f"/v1/jobs/{job}").json()["stages"][0]["urls"]


@pytest.mark.parametrize("how", ["says no", "raises"])
def test_a_filter_fails_closed(serve, how: str):
    def check(images: torch.Tensor) -> bool:
        if how == "raises":
            raise RuntimeError("the filter is broken")
        return False

    serving = serve(check=check)
    job = serving.client.start(num=2)["id"]
    events = serving.client.events(job)
    assert (events[-1][1], events[-1][2]["code"]) == ("failed", "refused_content")
    assert not [data for _, name, data in events if data.get("pictures")]
    assert not list(serving.store.pictures_dir.iterdir())
    answer = serving.client.post("/v1/images/generations", json={"prompt": "x", "stream": True, "partial_images": 3})
    assert "b64_json" not in answer.text
    assert "refused_content" in answer.text


def test_a_picture_flagged_only_in_a_preview_is_not_shown(serve):
    """Dark previews are refused; the job ends before its picture is done."""
    seen: list[float] = []

    def check(images: torch.Tensor) -> bool:
        seen.append(float(images.float().mean()))
        return images.shape[-1] != 64

    serving = serve(cascade=slowed(load(), 0.02), check=check)
    job = serving.client.start(settings={"base_16": {"num_steps": 4}, "sr_64": {"num_steps": 100}})["id"]
    events = serving.client.events(job)
    assert events[-1][2]["code"] == "refused_content"
    assert not [d for _, name, d in events if name == "preview" and d["stage"] == "sr_64"]
    assert serving.engine.stats["sr_64"].images == 0


def routes(source: Path) -> list[ast.AsyncFunctionDef]:
    return [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.AsyncFunctionDef)]


@pytest.mark.parametrize("source", sorted((ROOT / "cascade" / "serve").rglob("*.py")), ids=lambda path: path.stem)
def test_no_async_route_lacks_an_await(source: Path):
    """It would hold the event loop; what has nothing to wait for is a plain function and runs in a worker thread."""
    for function in routes(source):
        waits = [n for n in ast.walk(function) if isinstance(n, ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Yield)]
        assert waits, f"{source.name}:{function.lineno} {function.name}"


def test_the_search_for_async_routes_finds_some():
    assert {"events", "generate"} <= {each.name for each in routes(ROOT / "cascade" / "serve" / "api" / "app.py")}


def test_the_event_loop_is_not_blocked(serve):
    """/healthz while the engine works and pictures are encoded and written."""
    serving = serve()
    jobs = [serving.client.start(num=8, settings=MANY)["id"] for _ in range(4)]
    spent = []
    with streaming(serving.client, jobs[0]) as events:
        next(events)
        with Client(base_url=serving.url) as other:
            other.get("/healthz")
            for _ in range(40):
                began = time.perf_counter()
                assert other.get("/healthz").status_code == 200
                spent.append(time.perf_counter() - began)
                time.sleep(0.02)
        assert serving.engine.waiting > 0
    assert sorted(spent)[len(spent) // 2] < 0.05, spent
    for job in jobs:
        serving.client.delete(f"/v1/jobs/{job}")


def test_a_client_that_leaves_does_not_block_the_event_loop(serve, monkeypatch):
    """Leaving cancels, which needs the engine's lock."""
    serving = serve(cascade=slowed(load(), CALL_S))
    draw = sampling.image_noise
    monkeypatch.setattr(sampling, "image_noise", lambda *given: time.sleep(0.5) or draw(*given))
    spent = []
    with Client(base_url=serving.url) as other:
        for seed in range(3):
            body = {"prompt": "red heart", "n": 2, "stream": True, "seed": seed}
            with serving.client.stream("POST", "/v1/images/generations", json=body):
                pass
            began = time.perf_counter()
            other.get("/healthz")
            spent.append(time.perf_counter() - began)
    assert max(spent) < 0.3, spent


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head(client: Client):
    """Head and body are two writes; with Nagle's delay each answer takes 40 ms."""
    client.get("/healthz")
    spent = []
    for _ in range(20):
        began = time.perf_counter()
        client.get("/healthz")
        spent.append(time.perf_counter() - began)
    assert sorted(spent)[10] < 0.025, spent


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


def test_two_picks_at_once_are_two_jobs(client: Client):
    held = client.run(num=4, until="base_16")
    body = {"from": "base_16", "pick": [2]}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post(f"/v1/jobs/{held['id']}/refine", json=body), range(4)))
    jobs = [answer.json()["id"] for answer in answers]
    assert len(set(jobs)) == 4
    urls = []
    for job in jobs:
        assert client.finish(job) == "finished"
        urls.append(client.get(f"/v1/jobs/{job}").json()["stages"][0]["urls"][0])
    contents = {client.get(url).content for url in urls}
    assert len(contents) == 1


def test_an_expired_hold(serve):
    """The oldest goes where the bytes do not suffice: 410, not a wrong picture; the newest stay."""
    serving = serve(max_bytes=50_000)
    held = serving.client.run(until="base_16")
    url = held["stages"][0]["urls"][0]
    assert serving.client.get(url).status_code == 200
    for _ in range(6):
        newest = serving.client.run(num=2)
    assert serving.store.num_bytes <= 50_000
    for method, path in (("GET", held["url"]), ("GET", url), ("GET", held["events"]), ("DELETE", held["url"])):
        answer = serving.client.request(method, path)
        assert (answer.status_code, serving.client.error(answer)) == (410, "expired")
    answer = serving.client.post(f"{held['url']}/refine", json={"from": "base_16"})
    assert answer.status_code == 410
    assert serving.client.get(newest["stages"][1]["urls"][0]).status_code == 200
    on_disk = sum(path.stat().st_blocks * 512 for path in serving.store.pictures_dir.iterdir())
    assert on_disk < serving.store.num_bytes == serving.store._sum().total()  # what the index says of them counts, too
    listed = [job["id"] for job in serving.client.get("/v1/jobs").json()["jobs"]]
    assert newest["id"] in listed
    assert held["id"] not in listed


def test_a_picture_that_was_removed_from_the_disk(client: Client, serving: Serving):
    job = client.run()
    for picture in serving.store.pictures(job["id"]):
        (serving.store.pictures_dir / picture.file).unlink()
    assert client.get(job["stages"][0]["urls"][0]).status_code == 410
    assert client.post(f"{job['url']}/refine", json={"from": "base_16"}).status_code == 410


def test_an_index_that_another_process_locks(client: Client, serving: Serving):
    """The job fails, new ones are refused; when the lock is gone its end is recorded and all is as before."""
    store = serving.service.store
    store._db.execute("pragma busy_timeout = 50")
    job = client.start(settings=LONG)
    with contextlib.closing(sqlite3.connect(store.folder / "index.sqlite", isolation_level=None)) as other:
        other.execute("begin exclusive")
        number, name, data = client.events(job["id"])[-1]
        assert (name, data["code"]) == ("failed", "storage_failed")
        said = client.get(job["url"]).json()
        assert (said["state"], said["error"]["code"]) == ("failed", "storage_failed")
        refused = client.post("/v1/jobs", json={"prompts": ["x"], "settings": FEW})
        assert (refused.status_code, client.error(refused)) == (503, "storage_failed")
        assert store.find(job["id"], "").state != "failed"
        other.execute("rollback")
    until(lambda: store.find(job["id"], "").state == "failed")
    assert client.events(job["id"]) == [*client.events(job["id"])[:-1], (number, name, data)]
    assert client.run()["state"] == "finished"
    until(lambda: not serving.service._open)


def test_housekeeping_outlives_a_locked_index(serve, monkeypatch):
    serving = serve(cascade=slowed(load(), CALL_S), limits=Limits(abandon_s=0.2))
    monkeypatch.setattr(serving.store, "expire", mock.Mock(side_effect=sqlite3.OperationalError("database is locked")))
    serving.service._closing.wait(2 * service.KEEPER_S)
    job = serving.client.start(settings=LONG)["id"]
    with streaming(serving.client, job) as events:
        next(events)
    assert serving.client.finish(job) == "cancelled"  # nobody watches it any more
    assert serving.client.get("/readyz").status_code == 200


def test_other_files_in_the_store_s_folder_stay(tmp_path):
    """Whoever names a folder of his own; what a crash left of ours goes."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    (folder / "holiday.png").write_text("x")
    (folder / f"{'x' * 24}-{'0' * 16}.png").write_text("x")
    with pytest.MonkeyPatch.context() as patch:  # killed in the midst of a picture
        patch.setattr(Path, "replace", lambda *_: None)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), folder / f"{'x' * 24}.png", {})
    assert len(list(folder.iterdir())) == 4
    Store(tmp_path).close()
    assert {path.name for path in folder.iterdir()} == {"sub", "holiday.png"}


def test_a_flipped_bit_is_not_refined(client: Client, serving: Serving):
    held = client.run(until="base_16")
    path = serving.store.pictures_dir / serving.store.pictures(held["id"])[0].file
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    assert client.post(f"{held['url']}/refine", json={}).status_code == 410
    assert client.get(held["stages"][0]["urls"][0]).status_code == 410


def test_pictures_that_cannot_be_read(client: Client, serving: Serving, caplog):
    store = serving.service.store
    held = client.run(num=2, until="base_16")
    folder, damaged = (store.pictures_dir / picture.file for picture in store.pictures(held["id"]))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    folder.unlink()
    folder.mkdir()
    answers = [
        client.get(f"/v1/jobs/{held['id']}/stages/base_16/0.png"),
        client.post(f"/v1/jobs/{held['id']}/refine", json={"pick": [0]}),
        client.post(f"/v1/jobs/{held['id']}/refine", json={"pick": [1]}),
    ]
    assert [(answer.status_code, client.error(answer)) for answer in answers] == [
        (503, "storage_failed"), (503, "storage_failed"), (410, "expired")
    ]  # fmt: skip
    folder.rmdir()
    store.pictures_dir.rename(store.folder / "away")
    assert client.get("/readyz").status_code == 503
    assert client.run()["error"]["code"] == "storage_failed"
    openai = client.post("/v1/images/generations", json={"prompt": "red heart"})
    assert (openai.status_code, client.error(openai)) == (503, "storage_failed")
    (store.folder / "away").rename(store.pictures_dir)
    assert client.get("/readyz").status_code == 200
    assert client.run()["state"] == "finished"
    assert "Traceback" not in caplog.text


def test_sixty_short_jobs_leave_nothing_behind(serving: Serving):
    """From four clients at once, a third cancelled."""
    client = serving.client
    before = threading.active_count()
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda k: client.start(seed=k, settings=FEW), range(60)))
        for job in jobs[::3]:
            client.delete(job["url"])
        states = [client.finish(job["id"]) for job in jobs]
    assert set(states) <= {"finished", "cancelled"}
    until(lambda: serving.engine.waiting == 0)
    until(lambda: not serving.service._open)
    assert threading.active_count() <= before + 45  # worker threads of the event loop, at most 40
