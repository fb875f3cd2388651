"""Maps over HTTP: a job with a map, its refinement with the same one, and what is refused."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cascade import Request
from cascade.output.maps import map_from
from cascade.pipeline import Cascade
from cascade.serve.http.limits import Limits
from stages.config import CondConfig
from tests.cascade.chains import TEXT, finished, tiny_config, write_cascade
from tests.serve.serving import Client, b64


@pytest.fixture(scope="module")
def mapped(tmp_path_factory) -> Cascade:
    """base_8 and sr_16, both trained with gray maps, with random weights."""
    config, cond = tiny_config(), CondConfig(maps={"channels": 1})
    stages = {name: stage.model_copy(update={"cond": cond}) for name, stage in config.stages.items()}
    return Cascade.load(write_cascade(tmp_path_factory.mktemp("maps"), config.model_copy(update={"stages": stages})))


def png(side: int = 32, mode: str = "L", *, other: bool = False) -> bytes:
    pixels = np.where(np.arange(side) >= side // 2, 255, 0).astype(np.uint8)[None].repeat(side, 0)
    file = io.BytesIO()
    Image.fromarray(pixels.T if other else pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


def pixels(client: Client, url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(client.get(url).content)).convert("RGB")).astype(int)


def test_a_job_with_a_map_is_what_python_makes_and_is_refined_with_it(mapped, serve):
    client = serve(cascade=mapped).client
    body = {"prompts": [], "settings": {}, "num": 2, "seed": 3, "map": b64(png())}
    job = client.run(**body)
    assert job["state"] == "finished"
    request = Request(num=2, seed=3, maps=map_from(png(), mapped.conditions, "map"))
    truth = finished(mapped.sample(request))
    made = np.stack([pixels(client, url) for url in job["stages"][-1]["urls"]])
    assert np.abs(made - truth.permute(0, 2, 3, 1).numpy().astype(int)).max() <= 1
    other = client.run(**body | {"map": b64(png(other=True))})
    assert np.abs(pixels(client, other["stages"][-1]["urls"][0]) - made[0]).max() > 2
    assert len(job["map"]) == 64
    assert job["map"] != other["map"]

    held = client.run(**body, until="base_8")
    assert held["state"] == "held"
    where = f"/v1/jobs/{held['id']}/refine"
    for said, message in (
        ({}, "map: this job was made with one, which is not kept; send it again"),
        ({"map": b64(png(other=True))}, "map: another one than this job was made with; send that one"),
    ):
        answer = client.post(where, json=said)
        assert (answer.status_code, answer.json()["error"]["message"]) == (422, message)
    told = client.post(where, json={"pick": [1], "map": b64(png())})
    assert told.status_code == 202, told.text
    assert client.finish(told.json()["id"]) == "finished"
    refined = client.get(told.json()["url"]).json()
    assert np.abs(pixels(client, refined["stages"][-1]["urls"][0]) - made[1]).max() <= 1
    plain = client.run(prompts=[], settings={})
    answer = client.post(f"/v1/jobs/{plain['id']}/refine", json={"from": "base_8", "map": b64(png())})
    assert answer.json()["error"]["message"] == "map: this job was made without one; leave it out"


def test_openai_s_route_takes_a_map_like_a_job(tmp_path, serve):
    config, cond = tiny_config(), CondConfig(maps={"channels": 1}, text=TEXT)
    stages = {name: stage.model_copy(update={"cond": cond}) for name, stage in config.stages.items()}
    mapped = Cascade.load(write_cascade(tmp_path / "both", config.model_copy(update={"stages": stages})))
    client = serve(cascade=mapped).client
    body = {"prompt": "red heart", "seed": 3, "n": 2}
    answer = client.post("/v1/images/generations", json=body | {"map": b64(png())})
    assert answer.status_code == 200, answer.text
    made = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(each["b64_json"]))).convert("RGB"))
        for each in answer.json()["data"]
    ]
    truth = finished(
        mapped.sample(Request(prompts=("red heart",), num=2, seed=3, maps=map_from(png(), mapped.conditions, "map")))
    )
    assert np.abs(np.stack(made).astype(int) - truth.permute(0, 2, 3, 1).numpy().astype(int)).max() <= 1
    refused = client.post("/v1/images/generations", json=body | {"map": "cmVk"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "map")


def test_models_tell_the_channels_of_maps(mapped, serve, client):
    assert serve(cascade=mapped).client.get("/v1/models").json()["data"][0]["cascade"]["maps"] == 1
    assert client.get("/v1/models").json()["data"][0]["cascade"]["maps"] == 0


@pytest.mark.parametrize(
    ("said", "code", "message"),
    [
        ({"map": "cmVk"}, 422, "map: no "),
        ({"map": "https://example.com/a.png"}, 422, "map: send the picture itself as base64"),
        ({"map": b64(png(mode="RGB"))}, 422, "map: a coloured map, this cascade takes gray ones; convert it"),
        ({"map": b64(png()), "size": [16, 24]}, 422, "map: 32x32 px for a picture of 16x24 px"),
        ({"map": b64(png(128))}, 413, "map: 128x128 px; at most 4,096 pixels"),
    ],
)
def test_what_does_not_suit_is_refused(mapped, serve, said, code, message):
    client = serve(cascade=mapped, limits=Limits(upload_pixels=4096)).client
    answer = client.post("/v1/jobs", json={"prompts": []} | said)
    assert (answer.status_code, answer.json()["error"]["message"][: len(message)]) == (code, message)


def test_a_cascade_without_maps_takes_none(client):
    answer = client.post("/v1/jobs", json={"prompts": ["red heart"], "map": b64(png())})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "map: a map, but this cascade takes none; leave it out"
