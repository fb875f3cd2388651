"""A stage that stops early, asked for over HTTP: by settings, with previews; refused where the request ends with it."""

import pytest

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
