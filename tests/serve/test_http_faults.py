"""Out of memory, NaN and a filter that refuses or raises: one request's trouble is nobody else's."""

import threading
import time

import pytest
import torch

from cascade.serve.http.limits import MemoryBreaker
from tests.serve.serving import around, load, poisoned, slowed, until
from tests.serve.streams import LONG


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
    monkeypatch.setattr(MemoryBreaker, "for_s", 0.1)
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
