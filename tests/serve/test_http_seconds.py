"""A time budget over HTTP: fewer steps, by the speed that the server measured, and one line where none would do."""

import json

import openai
import pytest

from tests.cascade.engines import seconds as by_calls
from tests.serve.serving import Client, Serving, load

OWN = {"base_16": 16, "sr_64": 4}  # of one call each


@pytest.fixture(scope="module")
def unhurried(tmp_path_factory: pytest.TempPathFactory):
    """A server where a call takes a second by its clock, whatever it computes."""
    cascade = load()
    cascade.conditions.of(prompts=("",))  # the text encoder is there before the first request
    found = Serving(cascade, tmp_path_factory.mktemp("seconds") / "store", clock=by_calls())
    yield found
    found.close()


def asked(server: Serving, **body) -> dict[str, int]:
    """The steps that are said at once, which are those of the job."""
    told = server.client.post("/v1/jobs", json={"prompts": ["red heart"], "seed": 7} | body)
    assert told.status_code == 202, told.text
    server.client.delete(told.json()["url"])
    job = server.client.get(told.json()["url"]).json()
    said = {name: values["num_steps"] for name, values in job["settings"].items() if "num_steps" in values}
    assert said.items() <= told.json()["steps"].items()
    return told.json()["steps"]


def refused(server: Serving, **body) -> str:
    answer = server.client.post("/v1/jobs", json={"prompts": ["red heart"]} | body)
    assert answer.status_code == 422, answer.text
    message = answer.json()["error"]["message"]
    assert "\n" not in message
    return message


def test_the_steps_are_those_that_the_time_allows(unhurried: Serving):
    """Half of the stages' own in half of their time."""
    assert asked(unhurried) == OWN
    assert asked(unhurried, seconds=1e300) == OWN
    assert asked(unhurried, seconds=20) == OWN
    assert asked(unhurried, seconds=10) == {"base_16": 8, "sr_64": 2}
    assert asked(unhurried, seconds=2) == {"base_16": 1, "sr_64": 1}
    assert asked(unhurried, seconds=10, until="base_16") == {"base_16": 10}


def test_the_picture_is_that_of_the_steps(unhurried: Serving):
    client, body = unhurried.client, {"prompts": ["red heart"], "seed": 7}
    told = client.post("/v1/jobs", json=body | {"seconds": 8}).json()
    assert client.finish(told["id"]) == "finished"
    settings = {name: {"num_steps": num} for name, num in told["steps"].items()}
    again = client.run(settings=settings, seed=7)
    first, second = (
        client.get(job["stages"][-1]["urls"][0]).content for job in (client.get(told["url"]).json(), again)
    )
    assert first == second


def test_what_says_its_steps_keeps_them(unhurried: Serving):
    steps = asked(unhurried, seconds=10, settings={"sr_64": {"num_steps": 3, "aug_sigma": 0.1}})
    assert steps == {"base_16": 7, "sr_64": 3}


def test_held_pictures_are_refined_within_a_time(unhurried: Serving):
    """The steps that their job had, or that were asked for then, are open again."""
    client = unhurried.client
    held = client.run(until="base_16", settings={"base_16": {"num_steps": 2}, "sr_64": {"num_steps": 4}})
    told = client.post(f"{held['url']}/refine", json={"seconds": 3}).json()
    assert told["steps"] == {"sr_64": 3}
    assert client.finish(told["id"]) == "finished"
    job = client.get(told["url"]).json()
    assert job["settings"]["base_16"] == {"num_steps": 2}
    assert job["settings"]["sr_64"] == {"num_steps": 3}
    stands = client.post(f"{held['url']}/refine", json={"seconds": 60, "settings": {"sr_64": {"num_steps": 2}}}).json()
    assert stands["steps"] == {"sr_64": 2}


def test_too_short_says_the_least_which_is_then_enough(unhurried: Serving):
    message = refused(unhurried, seconds=0.001, num=2)
    assert message == (
        "request: 0.001 s is too short, the least takes about 2 s here; allow more, or ask for fewer or smaller pictures"
    )
    assert asked(unhurried, seconds=2, num=2) == {"base_16": 1, "sr_64": 1}


@pytest.mark.parametrize("seconds", [0, -1, 1e400, float("nan"), "2", None, [1]])
def test_what_is_no_time(client: Client, seconds):
    before = [job["id"] for job in client.get("/v1/jobs").json()["jobs"]]
    body = json.dumps({"prompts": ["red heart"], "seconds": seconds})
    answer = client.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    if seconds is None:  # as good as left out
        assert answer.status_code == 202
        return
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("seconds: ")
    assert [job["id"] for job in client.get("/v1/jobs").json()["jobs"]] == before


def test_with_openais_client(unhurried: Serving):
    with openai.OpenAI(base_url=f"{unhurried.url}/v1", api_key="none is needed", max_retries=0) as official:
        official.images.generate(prompt="red heart", extra_body={"seconds": 10})
        job = unhurried.client.get("/v1/jobs").json()["jobs"][0]
        assert job["settings"] == {"base_16": {"num_steps": 8}, "sr_64": {"num_steps": 2}}
        with pytest.raises(openai.BadRequestError, match=r"0\.001 s is too short") as refusal:
            official.images.generate(prompt="red heart", extra_body={"seconds": 0.001})
        assert refusal.value.param == "seconds"
