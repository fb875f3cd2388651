"""Nobody who has a key can starve another one: turns, queue, streams and store are shared; the keys' file may say how much."""

import contextlib
import io
import os
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image

from cascade.conditions import Conditions
from cascade.serve.http import keys, limits
from cascade.serve.http.connections import listen
from cascade.serve.http.keys import Keys, Share
from cascade.serve.http.limits import Limits
from cascade.serve.http.reads import READS
from cascade.serve.jobs.store import JobRow, Store
from cascade.serve.jobs.turns import Turns
from cascade.serve.options import proxies_of
from tests.serve.serving import FEW, WAIT_S, Client, Serving, around, b64, load, slowed, until

ALICE, BOB, CAROL = "alice-0123456789abcdef", "bob-0123456789abcdefgh", "carol-0123456789abcdef"
BOTH = {"alice": ALICE, "bob": BOB}
CALL_S = 0.02
LONG = {"base_16": {"num_steps": 100}, "sr_64": {"num_steps": 2}}


def of(serving: Serving, key: str) -> Client:
    return Client(base_url=serving.url, timeout=WAIT_S, headers={"authorization": f"Bearer {key}"})


@pytest.fixture
def two(serve):
    """serving, alice, bob; calls are slow."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            serving = serve(**({"cascade": slowed(load(), CALL_S), "keys": Keys(BOTH)} | options))
            return serving, *(stack.enter_context(of(serving, key)) for key in (ALICE, BOB))

        yield start


def test_a_heavy_request_does_not_hold_up_another_key_s(two):
    """More than a call has room for is under way when bob comes; he has his picture when none of it is done."""
    _, alice, bob = two()
    heavy = [alice.start(num=64, settings=LONG, seed=k)["url"] for k in range(3)]
    until(lambda: alice.get(heavy[0]).json()["state"] == "running")
    assert bob.run()["state"] == "finished"
    assert not any(stage["done"] for url in heavy for stage in alice.get(url).json()["stages"])
    for url in heavy:
        alice.delete(url)


def test_a_key_that_fills_the_queue_refills_it_for_itself(two):
    _, alice, bob = two(max_waiting=8)
    jobs = [alice.start(num=4, settings=LONG)["url"] for _ in range(2)]
    answer = alice.post("/v1/jobs", json={"prompts": ["x"]})
    assert (answer.status_code, alice.error(answer)) == (429, "queue_full")
    assert bob.run(num=4)["state"] == "finished"
    for url in jobs:
        alice.delete(url)


def test_prompts_are_encoded_when_the_queue_was_looked_at(two, monkeypatch):
    _, alice, _ = two(max_waiting=4, keys=None)
    encoded = []
    of_request = Conditions.of
    monkeypatch.setattr(Conditions, "of", lambda *given: encoded.append(1) or of_request(*given))
    job = alice.start(num=4, settings=LONG)
    for _ in range(3):
        assert alice.post("/v1/jobs", json={"prompts": ["x"] * 4, "settings": FEW}).status_code == 429
        assert alice.post("/v1/images/generations", json={"prompt": "x"}).status_code == 429
    assert len(encoded) == 1
    alice.delete(job["url"])


@pytest.mark.matrix
def test_uploads_of_one_key_are_decoded_in_turn_with_another_s(two):
    """Ten large pictures of alice wait when bob sends one."""
    out = io.BytesIO()
    Image.new("RGB", (3000, 3000), "red").save(out, "PNG")
    body = {"image": b64(out.getvalue()), "fit": True, "settings": FEW}
    _, alice, bob = two(cascade=load())
    ended: list[str] = []

    def send(client: Client, name: str) -> None:
        assert client.post("/v1/jobs", json=body).status_code == 202
        ended.append(name)

    with ThreadPoolExecutor(11) as pool:
        sent = [pool.submit(send, alice, "alice") for _ in range(10)]
        until(lambda: ended, WAIT_S)
        sent.append(pool.submit(send, bob, "bob"))
        for each in sent:
            each.result()
    assert ended.index("bob") <= 6


def test_bodies_that_one_key_holds_leave_room_for_another_s(two):
    """Ten bodies of alice that do not end; bob's upload is read meanwhile."""
    serving, _, bob = two(limits=Limits(body_bytes=4 << 20, bodies_bytes=16 << 20))
    head = "POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {ALICE}\r\ncontent-length: {4 << 20}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", serving.port), timeout=WAIT_S))
            with contextlib.suppress(OSError):  # refused in the midst of it
                connection.sendall(head.encode() + bytes(3 << 20))
        until(lambda: serving.app._bodies["alice"] >= 6 << 20)
        answer = bob.post("/v1/jobs", json={"prompts": ["x"], "image": "A" * (3 << 20)})
        assert answer.status_code == 422, answer.text
        until(lambda: serving.app._reading <= 9 << 20, WAIT_S)
    until(lambda: serving.app._reading == 0, WAIT_S)


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


def test_pictures_of_one_key_push_out_its_own(two):
    serving, alice, bob = two(cascade=load(), max_bytes=60_000)
    held = bob.run(until="base_16")
    jobs = [alice.run(num=2, seed=k) for k in range(8)]
    assert serving.store.num_bytes <= 60_000
    assert alice.get(jobs[0]["url"]).status_code == 410
    assert alice.get(jobs[-1]["stages"][1]["urls"][0]).status_code == 200
    assert bob.get(held["stages"][0]["urls"][0]).status_code == 200
    refined = bob.post(f"{held['url']}/refine", json={}).json()
    assert bob.finish(refined["id"]) == "finished"


BLOCK = 4096


def fill(store: Store, owner: str, *names: str, num_bytes: int = BLOCK) -> None:
    """Ended jobs with a picture each."""
    for name in names:
        store.add_job(JobRow(id=name, owner=owner, state="held", created=time.time(), parent="", request={}))
        store.add_picture(name, "base_16", 0, (1, 1), lambda path: path.write_bytes(bytes(num_bytes)) and None)
        store.expire(owner)


def there(store: Store, owner: str) -> list[str]:
    return sorted(row.id for row in store.jobs(owner, 100))


def test_the_bytes_of_a_store_are_shared(tmp_path):
    """Who alone has all of it gives back what another needs, to an equal part and no further."""
    store = Store(tmp_path, max_bytes=10 * BLOCK)
    fill(store, "alice", *(f"a{k}" for k in range(12)))
    assert there(store, "alice") == sorted(f"a{k}" for k in range(2, 12))
    fill(store, "bob", *(f"b{k}" for k in range(3)))
    assert (len(there(store, "alice")), len(there(store, "bob"))) == (7, 3)
    fill(store, "bob", *(f"b{k}" for k in range(3, 9)))
    assert there(store, "alice") == ["a10", "a11", "a7", "a8", "a9"]
    assert there(store, "bob") == ["b4", "b5", "b6", "b7", "b8"]
    store.limit("bob", 2 * BLOCK)
    store.expire()
    assert there(store, "bob") == ["b7", "b8"]
    assert store.num_bytes == 7 * BLOCK
    store.close()
    again = Store(tmp_path, max_bytes=10 * BLOCK)
    assert again.num_bytes == 7 * BLOCK
    again.close()


def test_small_pictures_count_the_blocks_that_they_take(tmp_path):
    """Also those that a server of before had counted by their bytes."""
    store = Store(tmp_path)
    fill(store, "alice", *(f"a{k}" for k in range(10)), num_bytes=100)
    blocks = sum(path.stat().st_blocks for path in store.pictures_dir.iterdir())
    assert store.num_bytes == max(512 * blocks, 1000)
    store.drop("a0")
    assert store.num_bytes == store._sum().total() == max(512 * blocks, 1000) * 9 // 10
    store._db.execute("update pictures set bytes = 100")
    store.close()
    again = Store(tmp_path)
    assert again.num_bytes == max(512 * blocks, 1000) * 9 // 10
    again.close()


class SmallDisk(Store):
    """Of so many blocks, of which others take some; what the index takes is not counted."""

    blocks, others = 100, 0

    @property
    def free_bytes(self) -> int:
        return (self.blocks - self.others) * BLOCK - sum(path.stat().st_size for path in self.pictures_dir.iterdir())


def test_a_store_on_a_disk_that_is_smaller(tmp_path, caplog, monkeypatch):
    """It is told at the start. Who floods it leaves others their part, and the disk what shall stay free; others of the machine,
    too, are made room for, but not where all that is here would not do."""
    monkeypatch.setattr("cascade.serve.jobs.store.SETTLE_S", 0.0)
    store = SmallDisk(tmp_path, spare_bytes=20 * BLOCK)
    assert caplog.messages == [
        "store: 0 MB of the 2048 MB that are allowed it: the disk has no more, of which 0 MB stay free"
    ]
    fill(store, "alice", *(f"a{k}" for k in range(200)))
    assert store.num_bytes == 72 * BLOCK
    fill(store, "bob", *(f"b{k}" for k in range(10)))
    assert (len(there(store, "alice")), len(there(store, "bob"))) == (62, 10)
    store.limit("bob", 90 * BLOCK)  # more than there is
    fill(store, "bob", *(f"c{k}" for k in range(100)))
    assert (len(there(store, "alice")), len(there(store, "bob"))) == (36, 36)
    store.others = 40
    assert store.free_bytes < 20 * BLOCK
    store.expire()
    assert (len(there(store, "alice")), len(there(store, "bob"))) == (18, 18)
    assert store.free_bytes >= 20 * BLOCK
    store.others = 80
    store.expire()
    assert store.num_bytes == 36 * BLOCK
    store.close()


def test_open_jobs_of_one_key_do_not_take_the_disk_from_others(two, caplog):
    """Nothing of hers can be removed yet: her next one fails, bob's are stored."""
    serving, alice, bob = two(cascade=load(), store=SmallDisk, limits=Limits(free_bytes=20 * BLOCK))
    store = serving.store
    store.add_job(JobRow(id="open", owner="alice", state="running", created=0.0, parent="", request={}))
    for k in range(76):
        store.add_picture("open", "base_16", k, (1, 1), lambda path: path.write_bytes(bytes(BLOCK)) and None)
    alice.start()
    until(lambda: "no space is left for pictures" in caplog.text)
    assert bob.run(until="base_16")["state"] == "held"
    store.drop("open")
    assert alice.run()["state"] == "finished"


def test_some_disks_tell_late_that_files_have_gone(tmp_path, monkeypatch):
    """What was removed for it is not removed again and again until then."""
    monkeypatch.setattr("cascade.serve.jobs.store.SETTLE_S", 3600.0)
    store = SmallDisk(tmp_path)
    fill(store, "alice", *(f"a{k}" for k in range(90)))
    store.others = 50
    store.expire()
    assert len(there(store, "alice")) == 45
    store.others = 95  # as if nothing had gone
    for _ in range(5):
        store.expire()
    assert len(there(store, "alice")) == 45
    store.close()


def modes(folder: Path) -> dict[str, str]:
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): oct(stat.S_IMODE(path.stat().st_mode))[2:] for path in paths}


def test_no_other_user_of_the_machine_reads_the_store(serve, tmp_path):
    """A new one, and one that was readable before."""
    folder = tmp_path / "parent" / "store"
    serving = serve(folder=folder)
    serving.client.run()
    found = modes(folder)
    assert {"index.sqlite", "index.sqlite-wal", "lock", "pictures"} <= set(found)
    assert found == {name: "700" if name in (".", "pictures") else "600" for name in found}
    serving.close()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    Store(folder).close()
    found = modes(folder)
    assert found == {name: "700" if name in (".", "pictures") else "600" for name in found}


def test_a_folder_that_was_there_stays_as_open_as_it_was(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "other").write_text("x")
    (tmp_path / "other").chmod(0o644)
    Store(tmp_path).close()
    found = modes(tmp_path)
    assert (found["."], found["other"], found["pictures"], found["index.sqlite"]) == ("755", "644", "700", "600")


def test_who_asks_for_more_than_memory_holds_does_not_make_the_server_unready(serve):
    def fail(found: torch.Tensor, sigma: torch.Tensor) -> None:
        if found.shape[-1] > 100:
            raise MemoryError("cannot allocate memory")

    serving = serve(cascade=around(load(), fail))
    for _ in range(4):
        assert serving.client.run(size=[128, 128])["error"]["code"] == "out_of_memory"
    assert serving.client.get("/readyz").status_code == 200


def test_limits_of_a_key(serve, tmp_path):
    path = tmp_path / "keys"
    path.write_text(
        f"alice: {ALICE} open-jobs=1 store-mb=3 # at home\nbob: {BOB}\t max-waiting=2 jobs-per-min=4 streams=1\n"
    )
    serving = serve(cascade=slowed(load(), CALL_S), keys=Keys.read(path))
    with of(serving, ALICE) as alice, of(serving, BOB) as bob:
        job = alice.start(num=4, settings=LONG)
        answer = alice.post("/v1/jobs", json={"prompts": ["x"]})
        assert (answer.status_code, alice.error(answer)) == (429, "too_many_jobs")
        answer = bob.post("/v1/jobs", json={"prompts": ["x"], "num": 3})
        assert answer.status_code == 422
        assert "3 images; this key may have 2 at once" in answer.text
        first = bob.start(num=2, settings=LONG)
        answer = bob.post("/v1/jobs", json={"prompts": ["x"]})
        assert (answer.status_code, bob.error(answer)) == (429, "queue_full")
        with bob.stream("GET", first["events"]) as stream:
            lines = stream.iter_lines()
            next(lines)
            answer = bob.get(first["events"])
            assert (answer.status_code, bob.error(answer)) == (429, "too_many_streams")
        bob.delete(first["url"])
        assert bob.finish(first["id"]) == "cancelled"
        bob.start()
        answer = bob.post("/v1/jobs", json={"prompts": ["x"]})
        assert (answer.status_code, bob.error(answer)) == (429, "too_many_requests")
        alice.delete(job["url"])


@pytest.mark.parametrize(
    "said", ["open-jobs=0", "open-jobs=x", "open-jobs=1 open-jobs=2", "jobs=3", "=", "open_jobs=1"]
)
def test_limits_that_are_none(tmp_path, said: str):
    path = tmp_path / "keys"
    path.write_text(f"bob: {BOB}\nalice: {ALICE} {said}\n")
    with pytest.raises(ValueError, match=r"keys:2: behind a key stand limits, .* there are open-jobs, ") as error:
        Keys.read(path)
    assert ALICE not in str(error.value)


def test_the_file_of_keys_is_read_again(serve, tmp_path, monkeypatch, caplog):
    """A new key is let in, one that went is not; a file that is none, or gone, changes nothing and is one line of the log."""
    monkeypatch.setattr(keys, "LOOK_S", 0.05)
    caplog.set_level("INFO")
    path = tmp_path / "keys"
    path.write_text(f"alice: {ALICE}\nbob: {BOB} open-jobs=1\n")
    serving = serve(keys=Keys.read(path))
    with of(serving, ALICE) as alice, of(serving, BOB) as bob, of(serving, CAROL) as carol:
        assert [client.get("/v1/models").status_code for client in (alice, bob, carol)] == [200, 200, 401]
        path.write_text(f"bob: {BOB}\ncarol: {CAROL}\n")
        until(lambda: carol.get("/v1/models").status_code == 200)
        assert [client.get("/v1/models").status_code for client in (alice, bob)] == [401, 200]
        assert serving.app.keys.share("bob") == Share()
        for spoil in (lambda: path.write_text("carol: short\n"), path.unlink, lambda: os.mkfifo(path)):
            caplog.clear()
            spoil()
            until(lambda: bob.get("/v1/models") and "the keys of before stay" in caplog.text)
            for _ in range(5):
                time.sleep(2 * keys.LOOK_S)
                assert [client.get("/v1/models").status_code for client in (alice, bob, carol)] == [401, 200, 200]
            assert caplog.text.count("the keys of before stay") == 1
        path.unlink()
        path.write_text(f"alice: {ALICE}\n")
        until(lambda: alice.get("/v1/models").status_code == 200)


def test_wrong_keys_are_limited_by_address(serve, monkeypatch):
    """Twenty different ones; who was right from there before goes on, others of the address wait, other addresses do not."""
    monkeypatch.setattr(limits.Guesses, "per_s", 5.0)
    serving = serve(keys=Keys(BOTH))

    def ask(client: httpx.Client, key: str) -> int:
        return client.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code

    elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=serving.url) as here, httpx.Client(base_url=serving.url, transport=elsewhere) as there:
        assert ask(here, ALICE) == 200
        assert [ask(here, "an old key") for _ in range(30)] == [401] * 30  # again and again is one guess
        assert [ask(here, f"wrong {k}") for k in range(19)] == [401] * 19
        answer = here.get("/v1/models", headers={"x-api-key": "wrong once more"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_wrong_keys")
        assert 1 <= int(answer.headers["retry-after"]) <= 6
        assert [ask(here, key) for key in ("an old key", "wrong 18", ALICE, BOB)] == [401, 401, 200, 429]
        assert [ask(there, key) for key in (BOB, "wrong")] == [200, 401]
        assert here.get("/healthz").status_code == 200
        until(lambda: ask(here, BOB) == 200)


def test_addresses_of_ipv6_are_counted_by_network():
    guesses = limits.Guesses()
    for k in range(guesses.most):
        guesses.tell(f"2001:db8::{k:x}%eth0", f"wrong {k}", None)
    with pytest.raises(limits.Refused):
        guesses.tell("2001:db8::ffff", "another", None)
    guesses.tell("2001:db8:0:1::1", "another", None)
    for k in range(guesses.addresses + 10):
        guesses.tell(f"{k}", "wrong", None)
    assert len(guesses._wrong) <= guesses.addresses


def test_ipv4_clients_of_a_socket_for_both_are_told_apart(serve):
    """Of one that listens on ::. Wrong keys of one do not shut out another, and --trust-proxy knows them."""
    try:
        listen("::", 0).close()
    except ValueError as error:
        pytest.skip(str(error))
    proxies = proxies_of(["127.0.0.9", "::ffff:127.0.1.0/120"])
    assert proxies == ["127.0.0.9", "127.0.1.0/24"]
    serving = serve(keys=Keys(BOTH), host="::", proxies=proxies)

    def ask(source: str, key: str, **headers: str) -> int:
        transport = httpx.HTTPTransport(local_address=source)
        with httpx.Client(base_url=serving.url, transport=transport) as client:
            return client.get("/v1/models", headers={"x-api-key": key} | headers).status_code

    assert [ask("127.0.0.2", f"wrong {k}") for k in range(21)] == [401] * 20 + [429]
    assert ask("127.0.0.3", BOB) == 200
    assert ask("127.0.0.2", BOB) == 429
    assert [ask(each, BOB, **{"x-forwarded-for": "127.0.0.2"}) for each in ("127.0.0.9", "127.0.1.5")] == [429, 429]
    assert ask("127.0.0.9", BOB, **{"x-forwarded-for": "::ffff:192.0.2.1"}) == 200


def test_a_queue_in_turns():
    turns: Turns[str] = Turns()
    for owner, items in (("a", "123456"), ("b", "xy"), ("c", "z")):
        for item in items:
            turns.put(owner, item)
    assert "".join(turns.get() or "" for _ in range(5)) == "1xz2y"
    got: list[str | None] = []
    reader = threading.Thread(target=lambda: got.extend(iter(turns.get, None)))
    reader.start()
    turns.put("d", "!")
    turns.close()
    reader.join(WAIT_S)
    assert sorted(got) == sorted("3456!")


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
