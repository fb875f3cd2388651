"""Maps of uncertainty over HTTP: previews of stages that can tell it have them where the body asks; else it is refused."""

import base64
import io

import numpy as np
from PIL import Image

from tests.cascade.unsure import fresh
from tests.serve.serving import slowed


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))))


def test_previews_have_maps_where_they_are_asked_for(serve):
    client = serve(cascade=slowed(fresh(("sr_16",)), 0.15)).client
    described = client.get("/v1/models").json()["data"][0]["cascade"]["stages"]
    assert [stage["uncertainty"] for stage in described] == [False, True]
    body = {"prompts": [], "settings": {}, "num": 2}
    for asked in (True, False):
        job = client.start(**body, uncertainty=asked)["id"]
        told = [data for _, name, data in client.events(job) if name == "preview"]
        assert {data["stage"] for data in told} == {"base_8", "sr_16"}
        for data in told:
            for picture in data["pictures"]:
                assert ("uncertainty" in picture) == (asked and data["stage"] == "sr_16")
                if "uncertainty" in picture:
                    found = pixels(picture["uncertainty"])
                    assert found.shape == pixels(picture["data"]).shape == (16, 16, 3)
                    assert len(np.unique(found)) == 1  # a fresh network: one std everywhere


def test_a_refinement_asks_for_itself(serve):
    client = serve(cascade=fresh()).client
    held = client.run(prompts=[], settings={}, until="base_8")
    answer = client.post(f"/v1/jobs/{held['id']}/refine", json={"uncertainty": True})
    assert answer.status_code == 202, answer.text
    assert client.finish(answer.json()["id"]) == "finished"


def test_what_no_stage_can_tell_is_refused(client, serve):
    answer = client.post("/v1/jobs", json={"prompts": ["red heart"], "uncertainty": True})
    assert answer.status_code == 422
    told = "cannot tell it, trained without learned_variance;"
    message = f"request: uncertainty: base_16, sr_64 {told} no stage of this cascade can, leave it out"
    assert answer.json()["error"]["message"] == message
    able = serve(cascade=fresh(("sr_16",))).client
    answer = able.post("/v1/jobs", json={"prompts": [], "uncertainty": True, "until": "base_8"})
    assert answer.json()["error"]["message"] == f"request: uncertainty: base_8 {told} of this cascade sr_16 can"
