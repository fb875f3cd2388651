"""Faults of the store while a server runs: expired holds, pictures that are gone or damaged, an index that is locked."""

import contextlib
import sqlite3
from pathlib import Path
from unittest import mock

import pytest
import torch

from cascade.output.pictures import save_png
from cascade.serve.api import service
from cascade.serve.http.limits import Limits
from cascade.serve.jobs.store import Store
from tests.serve.serving import FEW, Client, Serving, load, slowed, until
from tests.serve.streams import CALL_S, LONG, streaming


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
