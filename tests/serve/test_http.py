"""The native API against a real server: what a user does, in order."""

import base64
import hashlib
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cascade import pipeline
from cascade.events import StageFinished
from cascade.output.pictures import read_metadata
from cascade.plan import resolve
from cascade.request import Request
from cascade.serve.api.refine import pixels
from cascade.serve.http.paths import PATHS, path_of
from data.batch import to_uint8
from tests.cascade.chains import tiny
from tests.serve.serving import FEW, MANY, Client, Gate, Serving, around, b64, load, parsed, slowed, until


def picture(client: Client, url: str) -> np.ndarray:
    answer = client.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_a_job_from_start_to_pictures(client: Client):
    told = client.start(num=2)
    assert told["stages"] == ["base_16", "sr_64"]
    assert told["images"] == [0, 1]
    events = client.events(told["id"])
    milestones = [name for _, name, _ in events if name != "preview"]
    assert milestones == ["stage_started", "stage_finished"] * 2 + ["finished"]
    assert [number for number, _, _ in events] == sorted({number for number, _, _ in events})
    finished = [data for _, name, data in events if name == "stage_finished"]
    assert [(p["k"], p["width"], p["height"]) for p in finished[1]["pictures"]] == [(0, 64, 64), (1, 64, 64)]
    assert picture(client, finished[0]["pictures"][1]["url"]).shape == (16, 16, 3)
    said = client.get(told["url"]).json()
    assert said["state"] == "finished"
    assert said["stages"][1]["urls"] == [p["url"] for p in finished[1]["pictures"]]


@pytest.fixture
def watched(serve) -> Callable[..., list[dict[str, Any]]]:
    """watched(...) gives the previews of a job, at least one of each stage: neither goes on before its first one was seen. All jobs
    are of one server."""
    base = Gate(free=1, side=16)
    top = Gate(free=1, side=64, cascade=base.cascade)
    gates = {"base_16": base, "sr_64": top}
    client = serve(cascade=top.cascade).client

    def run(**body: Any) -> list[dict[str, Any]]:
        for gate in gates.values():
            gate.close()
        seen = []
        with client.stream("GET", client.start(**body)["events"]) as answer:
            for _, name, data in parsed(answer.iter_lines()):
                if name == "preview":
                    seen.append(data)
                    gates[data["stage"]].open()
        return seen

    return run


def test_a_preview_is_a_picture_of_each_image(watched):
    previews = watched(num=3, settings={"base_16": {"num_steps": 60}, "sr_64": {"num_steps": 20}})
    assert {data["stage"] for data in previews} == {"base_16", "sr_64"}
    for data in previews:
        assert [each["k"] for each in data["pictures"]] == data["index"] == [0, 1, 2]
        head, _, content = data["pictures"][0]["data"].partition(",")
        assert head == "data:image/webp;base64"
        side = {"base_16": 16, "sr_64": 64}[data["stage"]]
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (side, side)
        assert 1 <= data["step"] <= data["nfe"]
        assert data["eta_s"] is None or data["eta_s"] >= 0


def test_a_small_preview_is_what_the_network_gave(serve):
    """Up to 128 px nothing is lost: the page shows them enlarged."""
    given = set()
    spied = around(load(), lambda found, sigma: given.add(to_uint8(found[0]).permute(1, 2, 0).numpy().tobytes()))
    client = serve(cascade=spied).client
    settings = {"base_16": {"num_steps": 20, "guidance_scale": 1.0}, "sr_64": {"num_steps": 20}}
    shown = [
        data["pictures"][0]["data"].partition(",")[2]
        for _, name, data in client.events(client.start(settings=settings)["id"])
        if name == "preview"
    ]
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB")) for each in shown]
    assert {picture.shape for picture in pictures} == {(16, 16, 3), (64, 64, 3)}
    assert all(picture.tobytes() in given for picture in pictures)


def test_the_pictures_are_those_of_the_pipeline(client: Client, cascade):
    said = client.run(num=2, seed=11)
    request = Request(prompts=("red heart",), num=2, seed=11, settings=FEW)
    wanted = [event for event in cascade.sample(request) if isinstance(event, StageFinished)]
    for stage, event in zip(said["stages"], wanted, strict=True):
        for url, image in zip(stage["urls"], event.images, strict=True):
            got = torch.tensor(picture(client, url)).permute(2, 0, 1)
            assert int((got.int() - image.int()).abs().max()) <= 1


def test_hold_pick_refine_gives_the_pictures_of_an_undisturbed_job(client: Client):
    whole = client.run(num=4, seed=3)
    held = client.run(num=4, seed=3, until="base_16")
    assert held["state"] == "held"
    assert [stage["name"] for stage in held["stages"]] == ["base_16"]
    told = client.post(f"/v1/jobs/{held['id']}/refine", json={"from": "base_16", "pick": [3, 1]}).json()
    assert told["images"] == [3, 1]
    assert client.finish(told["id"]) == "finished"
    refined = client.get(told["url"]).json()
    assert refined["parent"] == held["id"]
    assert refined["stages"] == [{"name": "sr_64", "side": 64, "done": [1, 3], "urls": refined["stages"][0]["urls"]}]
    for k, url in zip((1, 3), refined["stages"][0]["urls"], strict=True):
        difference = picture(client, url).astype(int) - picture(client, whole["stages"][1]["urls"][k]).astype(int)
        assert np.abs(difference).max() <= 1


def test_a_held_job_says_so_in_its_stream(client: Client):
    job = client.start(until="base_16")
    assert client.events(job["id"])[-1][1:] == ("held", {"stage": "base_16"})


def test_redo_only_the_top_with_other_settings(client: Client):
    done = client.run(seed=5)
    body = {"from": "base_16", "settings": {"sr_64": {"aug_sigma": 0.4}}}
    told = client.post(f"/v1/jobs/{done['id']}/refine", json=body).json()
    assert client.finish(told["id"]) == "finished"
    again = client.get(told["url"]).json()
    assert again["settings"]["sr_64"] == {"num_steps": 2, "aug_sigma": 0.4}
    first, second = (picture(client, job["stages"][-1]["urls"][0]) for job in (done, again))
    assert np.abs(first.astype(int) - second.astype(int)).max() > 1


@pytest.mark.parametrize(
    ("kind", "fit", "shape"),
    [("PNG", False, (92, 160, 3)), ("JPEG", False, (92, 160, 3)), ("WEBP", True, (64, 108, 3))],
)
def test_upscale_an_uploaded_picture(client: Client, kind: str, fit: bool, shape: tuple[int, ...]):
    """As it is and `factor` times larger, or shrunk first."""
    content = io.BytesIO()
    Image.new("RGB", (40, 23), (200, 30, 60)).save(content, kind)
    said = client.run(prompts=[], image=b64(content.getvalue()), fit=fit, settings={"sr_64": {"num_steps": 2}})
    assert said["state"] == "finished"
    assert picture(client, said["stages"][0]["urls"][0]).shape == shape
    assert said["stages"][0]["side"] == shape[0]


def test_a_size_that_is_no_square(client: Client):
    said = client.run(size=[128, 64])
    assert [picture(client, stage["urls"][0]).shape for stage in said["stages"]] == [(16, 32, 3), (64, 128, 3)]


def test_without_a_seed_it_is_another_one(client: Client):
    seeds = {client.start(seed=None)["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_jobs_newest_first(client: Client):
    ids = [client.start()["id"] for _ in range(3)]
    listed = client.get("/v1/jobs", params={"limit": 3}).json()["jobs"]
    assert [job["id"] for job in listed] == ids[::-1]
    for job in ids:
        client.finish(job)


def test_cancel_twice(client: Client):
    job = client.start(num=16, settings={"base_16": {"num_steps": 100}})
    assert client.delete(job["url"]).status_code == 204
    assert client.delete(job["url"]).status_code == 204
    assert client.finish(job["id"]) == "cancelled"
    assert client.events(job["id"])[-1][1:] == ("cancelled", {})
    assert client.delete(job["url"]).status_code == 204


def test_models_tell_a_page_all_it_needs(client: Client):
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "emoji_tiny"
    base, top = model["cascade"]["stages"]
    assert (base["side"], base["nfe"], top["low_res"], top["ranges"]["aug_sigma"]) == (16, 16, 16, [0.0, 0.5])
    assert model["cascade"]["conditioning"] == "text"
    assert model["cascade"]["limits"]["images"] == 64
    assert client.get("/v1/models/emoji_tiny").json() == model
    assert client.get("/v1/models/x").status_code == 404


def test_every_route_has_a_name_in_the_log(serving: Serving):
    found = {route.path for route in serving.app.app.routes}
    assert found == set(PATHS)
    assert [path_of(path) for path in ("/v1/jobs/x-1/stages/a/7.png", "/v1/jobs/", "/nothing")] == [
        "/v1/jobs/{job}/stages/{stage}/{k}.png", "-", "-"
    ]  # fmt: skip
    described = serving.client.get("/openapi.json").json()["paths"]
    assert set(described["/v1/jobs/{job}/events"]["get"]["responses"]["200"]["content"]) == {"text/event-stream"}
    assert set(described["/v1/jobs/{job}/stages/{stage}/{k}.png"]["get"]["responses"]["200"]["content"]) == {
        "image/png"
    }


def test_health_readiness_metrics_and_docs(client: Client):
    client.run()
    assert client.get("/healthz").text == "ok"
    assert [client.head(path).status_code for path in ("/", "/healthz", "/readyz")] == [200, 200, 200]
    assert client.get("/readyz").text == "ready"
    until(lambda: 'cascade_jobs_total{state="finished"}' in client.get("/metrics").text)  # counted after it was told
    text = client.get("/metrics").text
    assert 'cascade_stage_images_total{stage="sr_64"}' in text
    assert 'route="/v1/jobs/{job}"' in text
    docs = client.get("/docs").text
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in docs
    assert "<script" not in docs
    assert "http://" not in docs.replace("http://127.0.0.1", "")


def test_the_page_comes_with_a_strict_policy(client: Client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'; img-src 'self' data: blob:" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers


def test_two_servers_cannot_share_a_store(serving: Serving):
    from cascade.serve.jobs.store import Store

    with pytest.raises(ValueError, match="another server uses it"):
        Store(serving.store.folder)


def test_other_sites_and_names_are_refused(client: Client):
    """A page of another site in the user's browser reaches 127.0.0.1; it may do nothing."""
    body = {"json": {"prompts": ["x"]}}
    assert client.post("/v1/jobs", headers={"origin": "http://evil.test"}, **body).status_code == 403
    assert client.post("/v1/jobs", headers={"host": "evil.test"}, **body).status_code == 421
    plain = client.post("/v1/jobs", content='{"prompts": ["x"]}', headers={"content-type": "text/plain"})
    assert plain.status_code == 422
    assert client.get("/v1/jobs", headers={"origin": "http://evil.test"}).status_code == 200


def test_a_store_with_jobs_of_another_cascade(serve, tmp_path):
    """They are listed and shown; going on from them is refused."""
    first = serve(cascade=tiny(8, 16))
    old = first.client.run(prompts=[], settings={})
    first.close()
    client = serve().client
    assert [job["id"] for job in client.get("/v1/jobs").json()["jobs"]] == [old["id"]]
    assert client.get(old["stages"][1]["urls"][0]).status_code == 200
    answer = client.post(f"/v1/jobs/{old['id']}/refine", json={"from": "base_8"})
    assert (answer.status_code, client.error(answer)) == (422, "invalid_request")


def test_remove_a_job_for_good(client: Client):
    """Not while it runs; once gone it stays gone, and again is no mistake."""
    job = client.run()
    urls = [url for stage in job["stages"] for url in stage["urls"]]
    assert client.delete(f"{job['url']}/pictures").status_code == 204
    assert client.delete(f"{job['url']}/pictures").status_code == 204
    assert {client.get(url).status_code for url in (*urls, job["url"], job["events"])} == {410}
    assert job["id"] not in [each["id"] for each in client.get("/v1/jobs").json()["jobs"]]
    assert client.delete("/v1/jobs/nothing/pictures").status_code == 404
    running = client.start(settings=MANY)
    answer = client.delete(f"{running['url']}/pictures")
    assert (answer.status_code, client.error(answer)) == (409, "job_is_open")
    client.delete(running["url"])
    client.finish(running["id"])


def test_the_picture_says_what_made_it(client: Client, tmp_path):
    """Also one that was held and refined: settings of all its stages, and the picture that it was made of."""
    base = {"num_steps": 3, "sampler": "euler"}
    held = client.run(num=4, until="base_16", settings={"base_16": base})
    done = client.post(f"{held['url']}/refine", json={"pick": [3, 1], "settings": {"sr_64": {"num_steps": 2}}}).json()
    assert client.finish(done["id"]) == "finished"
    for k in (1, 3):
        path = tmp_path / f"{k}.png"
        path.write_bytes(client.get(f"{done['url']}/stages/sr_64/{k}.png").content)
        said = read_metadata(path)
        assert said["image"] == k
        assert {key: said["stages"]["base_16"]["settings"][key] for key in base} == base
        assert said["stages"]["sr_64"]["settings"]["num_steps"] == 2
        low_res = pixels(client.get(held["stages"][0]["urls"][k]).content, 3)
        assert said["low_res"]["sha256"] == hashlib.sha256(low_res.numpy().tobytes()).hexdigest()


def test_a_job_is_resolved_once(watched, monkeypatch):
    """Not again for each preview and picture."""
    resolved = []
    monkeypatch.setattr(pipeline, "resolve", lambda *args, **more: resolved.append(args) or resolve(*args, **more))
    assert len(watched(num=2)) >= 2
    assert len(resolved) == 1


def test_the_time_left_covers_the_whole_job(serve):
    """Of all its chunks and stages."""
    serving = serve(cascade=slowed(load(), 0.03))
    serving.client.run()  # what a call costs
    job = serving.client.start(num=12, settings={"base_16": {"num_steps": 16}, "sr_64": {"num_steps": 8}})
    told = []
    with serving.client.stream("GET", job["events"]) as answer:
        for _, name, data in parsed(answer.iter_lines()):
            if name == "preview":
                told.append((time.monotonic(), data["eta_s"]))
    end = time.monotonic()
    middle = [eta / (end - at) for at, eta in told[len(told) // 4 : len(told) * 3 // 4]]
    assert len(middle) > 5
    assert 0.5 < statistics.median(middle) < 2, middle


def test_the_time_left_is_unknown_at_first_and_never_negative(watched, monkeypatch):
    """Clocks may jump: only the steady one is asked."""
    assert watched()[0]["eta_s"] is None
    for jump in (-86400.0, 86400.0):
        now = time.time
        monkeypatch.setattr(time, "time", lambda now=now, jump=jump: now() + jump)
        told = [data["eta_s"] for data in watched()]
        assert len(told) > 1
        assert all(0 <= eta < 60 for eta in told)
        monkeypatch.undo()
