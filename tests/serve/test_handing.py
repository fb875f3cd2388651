"""A stage that stops early, asked for over HTTP: by settings, with previews; refused where the request ends with it."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.serve.serving import FEW, Client


@pytest.mark.parametrize("handover", ["x", "x0_hat"])
def test_by_settings(client: Client, handover: str):
    stop = {"sigma_end": 0.3, "handover": handover}
    job = client.run(settings=FEW | {"base_16": FEW["base_16"] | stop})
    assert job["state"] == "finished"
    assert len(job["images"]) == 1


def test_it_does_not_end_a_request(client: Client):
    settings = {"base_16": FEW["base_16"] | {"sigma_end": 0.3}}
    answer = client.post("/v1/jobs", json={"prompts": ["red heart"], "until": "base_16", "settings": settings})
    assert (answer.status_code, client.error(answer)) == (422, "invalid_request")
    assert "no stage comes after it here" in answer.json()["error"]["message"]


def test_refining_goes_on_as_the_job_did(client: Client):
    """From x0_hat; x is not kept, so pictures of a stage that hands it on are refused."""
    stop = {"sigma_end": 0.3, "handover": "x0_hat"}
    whole = client.run(settings=FEW | {"base_16": FEW["base_16"] | stop})
    told = client.post(f"/v1/jobs/{whole['id']}/refine", json={"from": "base_16"}).json()
    assert client.finish(told["id"]) == "finished"
    again = client.get(told["url"]).json()
    first, second = (decoded(client.get(job["stages"][-1]["urls"][0]).content) for job in (whole, again))
    assert np.abs(first - second).max() <= 1
    noisy = client.run(settings=FEW | {"base_16": FEW["base_16"] | stop | {"handover": "x"}})
    answer = client.post(f"/v1/jobs/{noisy['id']}/refine", json={"from": "base_16"})
    assert (answer.status_code, client.error(answer)) == (422, "invalid_request")
    assert "went on from its noisy x, which is not kept" in answer.json()["error"]["message"]


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)
