"""Values that clients get wrong: one line of JSON with the right status, before any work."""

import json
from typing import Any

import pytest

from tests.cascade.chains import tiny
from tests.serve.bodies import GOOD, JSON, jobs, tiny_png
from tests.serve.serving import Client, b64


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"nothing",
        b'{"prompts": ["x"]',
        b"\xff\xfe",
        b'{"prompts": ["\xff"]}',
        b"[" * 100_000,
        b'{"num": ' + b"9" * 10_000 + b"}",
        b"[]",
        b'"x"',
        b"null",
        b'{"prompts": ["\\ud800"]}',
    ],
    ids=lambda content: repr(content[:16]),
)
def test_malformed_json_is_refused(client: Client, content: bytes):
    before = jobs(client)
    answer = client.post("/v1/jobs", content=content, headers=JSON)
    assert answer.status_code in (400, 422)
    assert client.error(answer) in ("bad_request", "invalid_request")
    if content == b"{":
        assert answer.json()["error"]["message"].startswith("body: not JSON at character 1: ")
    assert jobs(client) == before


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"prompts": "red heart"}, "prompts"),
        ({"prompts": [1]}, "prompts.0"),
        ({"prompts": None}, "prompts"),
        ({"prompts": ["x" * 3000]}, "prompts"),
        ({"prompts": ["x"] * 65}, "num"),
        ({"num": "2"}, "num"),
        ({"num": 2.5}, "num"),
        ({"num": True}, "num"),
        ({"num": 0}, "num"),
        ({"num": -1}, "num"),
        ({"num": 65}, "num"),
        ({"num": 10**9}, "num"),
        ({"seed": 2**70}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"size": [99_999, 99_999]}, "size"),
        ({"size": [64]}, "size"),
        ({"size": [0, 64]}, "size"),
        ({"size": [-64, 64]}, "size"),
        ({"size": [65, 64]}, "multiples"),
        ({"size": [320, 64]}, "size"),
        ({"size": [256, 256], "num": 8}, "size"),
        ({"size": "64x64"}, "size"),
        ({"until": "sr_99"}, "sr_99"),
        ({"until": 3}, "until"),
        ({"settings": {"sr_99": {}}}, "sr_99"),
        ({"settings": {"sr_64": {"num_steps": 10**9}}}, "num_steps"),
        ({"settings": {"sr_64": {"num_steps": 101}}}, "num_steps"),
        ({"settings": {"sr_64": {"num_steps": 0}}}, "num_steps"),
        ({"settings": {"sr_64": {"num_steps": "many"}}}, "num_steps"),
        ({"settings": {"sr_64": {"num_steps": "2"}}}, "num_steps"),
        ({"settings": {"base_16": {"guidance_interval": [5, 1]}}}, "guidance_interval"),
        ({"settings": {"sr_64": {"aug_sigma": 5.0}}}, "aug_sigma"),
        ({"settings": {"base_16": {"sigma_min": 79.99999999999999}}}, "noise levels"),
        ({"settings": {"sr_64": {"rho": 0.1, "sigma_min": 0.001}}}, "noise levels"),
        ({"settings": {"x" * 300: {}}}, "settings"),
        ({"until": "x" * 300}, "until"),
        ({"settings": {"sr_64": {"sampler": "magic"}}}, "sampler"),
        ({"settings": {"sr_64": {"stepps": 3}}}, "stepps"),
        ({"settings": {"sr_64": 3}}, "settings.sr_64"),
        ({"settings": {"sr_64": {"num_steps": {"a": 1}}}}, "num_steps"),
        ({"labels": [1]}, "label"),
        ({"labels": [1], "prompts": []}, "label"),
        ({"labels": ["cat"], "prompts": []}, "cat"),
        ({"image": 3}, "image"),
        ({"image": "not base64!"}, "image"),
        ({"image": b64(b"not a picture")}, "image"),
        ({"owner": "me"}, "owner"),
        ({"prompt": "x"}, "prompt: no such field; did you mean prompts?"),
        ({"settings": {"sr_64": {"guidance_scale": 3}}}, "trained without text or classes"),
        ({"first": "sr_64"}, "first"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_types_and_absurd_values_are_refused_by_name(client: Client, body: dict[str, Any], named: str):
    before = jobs(client)
    answer = client.post("/v1/jobs", json=GOOD | body)
    assert answer.status_code == 422, answer.text
    assert client.error(answer) == "invalid_request"
    assert named in answer.json()["error"]["message"]
    assert jobs(client) == before


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "101"])
def test_guidance_that_is_not_a_finite_number_is_refused(client: Client, value: str):
    content = '{"prompts": ["x"], "settings": {"base_16": {"guidance_scale": VALUE}}}'.replace("VALUE", value)
    answer = client.post("/v1/jobs", content=content, headers=JSON)
    assert answer.status_code == 422
    assert "guidance_scale" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"from": "sr_64"},
        {"from": "nowhere"},
        {"from": "base_16", "pick": [7]},
        {"from": "base_16", "pick": [-1]},
        {"from": "base_16", "pick": [0, 0]},
        {"from": "base_16", "pick": [10**30]},
        {"from": "base_16", "pick": ["0"]},
        {"from": "base_16", "until": "base_16"},
        {"from": "base_16", "settings": {"base_17": {}}},
        {"from": "base_16", "settings": {"base_16": {"num_steps": 3}}},
        {"from": "base_16", "settings": {"sr_64": {"num_steps": 10**6}}},
    ],
    ids=str,
)
def test_refining_what_does_not_exist_is_refused(client: Client, body: dict[str, Any]):
    held = client.run(until="base_16")
    answer = client.post(f"/v1/jobs/{held['id']}/refine", json=body)
    assert answer.status_code == 422, answer.text
    client.error(answer)


@pytest.mark.parametrize("said", ["x", "-1", "1.5", "9" * 30, "٣"])
def test_a_last_event_id_that_is_no_number_is_refused(client: Client, said: str):
    job = client.run()
    answer = client.get(f"/v1/jobs/{job['id']}/events", headers={"last-event-id": said.encode()})
    assert answer.status_code == 422


def test_a_prompt_for_a_class_cascade_and_a_label_too_high_are_refused(serve, tmp_path):
    client = serve(cascade=tiny(8, 16, classes=4), folder=tmp_path / "classes").client
    text = client.post("/v1/jobs", json=GOOD)
    assert text.status_code == 422
    assert "class labels" in text.json()["error"]["message"]
    assert client.post("/v1/jobs", json={"labels": [4]}).status_code == 422
    openai = client.post("/v1/images/generations", json={"prompt": "red heart"})
    assert (openai.status_code, openai.json()["error"]["param"]) == (400, "prompt")
    assert client.run(prompts=[], labels=[3], settings={})["state"] == "finished"


def test_json_of_another_content_type_is_refused(client: Client):
    answer = client.post(
        "/v1/jobs", content=json.dumps(GOOD), headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_a_picture_that_enters_after_until_is_refused(client: Client):
    answer = client.post("/v1/jobs", json={"image": b64(tiny_png()), "until": "base_16"})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"] == "until: the picture enters at stage sr_64; allowed are sr_64"


@pytest.mark.parametrize("k", ["-1", "x", "0.5", "9" * 40])
def test_picture_numbers_that_do_not_exist_are_not_found(client: Client, k: str):
    job = client.run()["id"]
    assert client.get(f"/v1/jobs/{job}/stages/base_16/{k}.png").status_code in (404, 422)


def test_unknown_routes_and_methods_are_json_too(client: Client):
    for method, path, status in (("GET", "/nothing", 404), ("PUT", "/v1/jobs", 405), ("PATCH", "/", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status
        client.error(answer)
