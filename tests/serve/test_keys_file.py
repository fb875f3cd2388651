"""The file of keys: limits of a key, and what happens when the file changes while a server runs."""

import os
import time

import pytest

from cascade.serve.http import keys
from cascade.serve.http.keys import Keys, Share
from tests.serve.keyed import ALICE, BOB, CALL_S, CAROL, LONG, of
from tests.serve.serving import load, slowed, until


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
