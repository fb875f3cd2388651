"""Painting over pictures: inpainting, image-to-image and inversion of an upload, and a region of stored pictures anew."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.serve.serving import Client, b64

FAST = {"base_16": {"num_steps": 2}, "sr_64": {"num_steps": 1}}


def encoded(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return b64(file.getvalue())


def drawing(side: int = 64) -> np.ndarray:
    rows, cols = np.mgrid[:side, :side] * 255 // side
    return np.stack([rows, cols, np.full_like(rows, 90)], -1).astype(np.uint8)


def half(side: int = 64) -> np.ndarray:
    return np.where(np.arange(side) >= side // 2, 255, 0).astype(np.uint8)[None].repeat(side, 0)


def painted(client: Client, url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(client.get(url).content)).convert("RGB"))


def last(job: dict, k: int = 0) -> str:
    return job["stages"][-1]["urls"][k]


def test_a_masked_picture_keeps_what_is_black_in_the_mask(client: Client):
    job = client.run(prompts=["red heart"], image=encoded(drawing()), mask=encoded(half()), settings=FAST, seed=1)
    found = painted(client, last(job))
    assert [stage["name"] for stage in job["stages"]] == ["base_16", "sr_64"]
    assert np.array_equal(found[:, :32], drawing()[:, :32])
    assert (found[:, 32:] != drawing()[:, 32:]).mean() > 0.5


def test_a_strength_holds_for_every_stage_that_says_none(client: Client):
    body = {"image": encoded(drawing()), "settings": FAST | {"sr_64": {"num_steps": 1, "strength": 0.2}}, "seed": 1}
    job = client.run(strength=0.4, **body)
    assert {name: values["strength"] for name, values in job["settings"].items()} == {"base_16": 0.4, "sr_64": 0.2}
    near, far = (
        np.abs(painted(client, last(client.run(strength=strength, **body))).astype(int) - drawing()).mean()
        for strength in (0.1, 0.9)
    )
    assert near < far


def test_an_inverted_picture_is_painted_under_another_caption(client: Client):
    job = client.run(prompts=["red heart"], invert="green apple", image=encoded(drawing()), settings=FAST)
    assert job["state"] == "finished"


@pytest.mark.parametrize("stage", ["base_16", "sr_64"])
def test_a_region_of_stored_pictures_anew(client: Client, stage: str):
    """After any stage: what is black in the mask is the stored picture's at that stage, for every pick; a new seed paints."""
    done = client.run(prompts=["red heart"], num=3, settings=FAST, seed=3)
    side = {"base_16": 16, "sr_64": 64}[stage]
    body = {"from": stage, "pick": [2, 0], "mask": encoded(half(side)), "seed": 8}
    told = client.post(f"/v1/jobs/{done['id']}/refine", json=body)
    assert told.status_code == 202, told.text
    assert client.finish(told.json()["id"]) == "finished"
    job = client.get(told.json()["url"]).json()
    before, after = ({each["name"]: each for each in found["stages"]}[stage] for found in (done, job))
    assert after["done"] == [0, 2]
    for k, url in zip((0, 2), after["urls"], strict=True):
        old, new = painted(client, before["urls"][k]), painted(client, url)
        assert np.array_equal(old[:, : side // 2], new[:, : side // 2])
        assert not np.array_equal(old, new)
    assert [each["name"] for each in job["stages"]] == ["base_16", "sr_64"]


def test_a_held_job_that_painted_over_a_picture_of_its_stage_goes_on(client: Client):
    held = client.run(image=encoded(drawing(16)), mask=encoded(half(16)), settings=FAST, until="base_16")
    assert np.array_equal(painted(client, last(held))[:, :8], drawing(16)[:, :8])
    refined = client.post(f"/v1/jobs/{held['id']}/refine", json={"from": "base_16"})
    assert client.finish(refined.json()["id"]) == "finished"


def test_what_painted_over_an_upload_cannot_go_on_without_it(client: Client):
    done = client.run(image=encoded(drawing()), mask=encoded(half()), settings=FAST)
    answer = client.post(f"/v1/jobs/{done['id']}/refine", json={"from": "base_16"})
    assert answer.status_code == 422
    assert "from: stages up to sr_64 painted over a picture that is not kept" in answer.json()["error"]["message"]


REFUSED = {
    "mask: no image": {"mask": encoded(half())},
    "strength: no image": {"strength": 0.5},
    "mask: 32x32 px, its picture has 64x64": {"image": encoded(drawing()), "mask": encoded(half(32))},
    "mask: the mask is empty": {"image": encoded(drawing()), "mask": encoded(np.zeros((64, 64), np.uint8))},
    "mask: the mask is everywhere": {"image": encoded(drawing()), "mask": encoded(np.full((64, 64), 255, np.uint8))},
    "mask: not base64": {"image": encoded(drawing()), "mask": "?"},
    "strength": {"image": encoded(drawing()), "strength": 1.5},
    "does not suit stages": {"image": encoded(drawing(50)), "strength": 0.5},
    "both a source and a size": {"image": encoded(drawing()), "strength": 0.5, "size": [64, 64]},
    "no stage 'sr_63'": {"image": encoded(drawing()), "strength": 0.5, "settings": {"sr_63": {"strength": 0.4}}},
    "no source to start from": {"settings": {"sr_64": {"strength": 0.4}}},
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_cannot_be_painted_over_is_refused(client: Client, says: str):
    answer = client.post("/v1/jobs", json=REFUSED[says])
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (half(32), "mask: 32x32 px, its picture has 64x64 px"),
        (np.zeros((64, 64), np.uint8), "the mask is empty"),
        (np.full((64, 64), 255, np.uint8), "the mask is everywhere"),
    ],
)
def test_a_region_that_cannot_be_painted_anew_is_refused(client: Client, mask: np.ndarray, says: str):
    done = client.run(prompts=["red heart"], settings=FAST)
    answer = client.post(f"/v1/jobs/{done['id']}/refine", json={"from": "sr_64", "mask": encoded(mask)})
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["error"]["message"]


def test_a_seed_alone_refines_nothing(client: Client):
    done = client.run(prompts=["red heart"], settings=FAST)
    answer = client.post(f"/v1/jobs/{done['id']}/refine", json={"from": "base_16", "seed": 4})
    assert "seed: the later stages go on with the job's own" in answer.json()["error"]["message"]
