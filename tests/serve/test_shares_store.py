"""The store's bytes are shared among keys, also on a disk that is smaller or late; its folder is private."""

import stat
import time
from pathlib import Path

from cascade.serve.http.limits import Limits
from cascade.serve.jobs.store import JobRow, Store
from tests.serve.serving import load, until


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
