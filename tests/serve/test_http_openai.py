"""`/v1/images/generations` by the official `openai` client."""

import base64
import io
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from cascade.serve.api.previews import partial_marks
from cascade.serve.http import logs
from cascade.serve.http.keys import Keys
from cascade.serve.http.limits import Limits
from tests.serve.serving import Serving, around, load, poisoned, slowed, until

KEY = "alice-0123456789abcdef"


@pytest.fixture
def official(serving: Serving):
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="none is needed", max_retries=0) as found:
        yield found


def opened(b64_json: str | None) -> Image.Image:
    assert b64_json
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def test_models(official):
    assert [model.id for model in official.models.list()] == ["emoji_tiny"]


def test_pictures(official):
    answer = official.images.generate(model="emoji_tiny", prompt="red heart", n=2, extra_body={"seed": 3})
    assert [opened(image.b64_json).size for image in answer.data] == [(64, 64)] * 2
    assert answer.output_format == "png"
    again = official.images.generate(model="emoji_tiny", prompt="red heart", n=2, extra_body={"seed": 3})
    assert [a.b64_json for a in again.data] == [a.b64_json for a in answer.data]


@pytest.mark.parametrize("kind", ["png", "webp", "jpeg"])
def test_formats_and_sizes(official, kind: str):
    answer = official.images.generate(prompt="red heart", size="128x64", output_format=kind, response_format="b64_json")
    image = opened(answer.data[0].b64_json)
    assert (image.format, image.size) == (kind.upper(), (128, 64))


def test_fields_of_theirs_that_mean_nothing_here(official):
    answer = official.images.generate(
        prompt="red heart", n=1, size="auto", quality="high", background="auto", moderation="low", user="someone"
    )
    assert opened(answer.data[0].b64_json).size == (64, 64)


@pytest.mark.parametrize("partial_images", [0, 1, 2, 3])
def test_streaming_with_partial_images(official, partial_images: int):
    stream = official.images.generate(
        prompt="red heart", stream=True, partial_images=partial_images, output_format="webp"
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * partial_images + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:-1]] == list(range(partial_images))
    for event in events:
        image = opened(event.b64_json)
        assert (image.format, image.size) == ("WEBP", (64, 64))
        assert event.output_format == "webp"
    assert events[-1].usage.total_tokens == 0


def test_partial_images_come_while_the_work_goes_on(serve):
    """The first of two long before the end, and they approach the result."""
    serving = serve(cascade=slowed(load(), 0.05))
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="x", max_retries=0) as official:
        times, images = [], []
        for event in official.images.generate(prompt="red heart", stream=True, partial_images=2):
            times.append(time.monotonic())
            images.append(opened(event.b64_json).convert("RGB"))
    assert times[-1] - times[0] > 8 * 0.05  # calls of the networks, after the first of two
    errors = [distance(image, images[-1]) for image in images]
    assert errors[0] > errors[1] > errors[2] == 0


@pytest.mark.parametrize("partial_images", [1, 3])
def test_partial_images_of_many_pictures(official, partial_images: int):
    """Every picture has all of its own, numbered from 0, and they approach it, though chunks of 4 are computed one by one."""
    events = list(official.images.generate(prompt="red heart", n=10, stream=True, partial_images=partial_images))
    done = {event.index: opened(event.b64_json) for event in events if event.type == "image_generation.completed"}
    partials = [event for event in events if event.type == "image_generation.partial_image"]
    assert sorted(done) == list(range(10))
    for k, image in done.items():
        own = [event for event in partials if event.index == k]
        assert [event.partial_image_index for event in own] == list(range(partial_images))
        errors = [distance(opened(event.b64_json), image) for event in own]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] > 0


def test_the_first_partial_image_comes_after_the_first_call(serve):
    """While the second one waits."""
    calls, may_go_on = count(), threading.Event()
    slow = around(load(), lambda found, sigma: next(calls) == 0 or may_go_on.wait(5))
    with openai.OpenAI(base_url=f"{serve(cascade=slow).url}/v1", api_key="x", max_retries=0) as official:
        events = official.images.generate(prompt="red heart", stream=True, partial_images=2)
        assert next(iter(events)).partial_image_index == 0
        assert next(calls) <= 2
        may_go_on.set()
        assert [event.type.rpartition(".")[2] for event in events] == ["partial_image", "completed"]


@pytest.mark.parametrize(
    ("nfe", "num", "marks"),
    [
        ((16, 4), 1, (1,)),
        ((16, 4), 2, (1, 18)),
        ((16, 4), 3, (1, 17, 19)),
        ((2, 1), 3, (1, 2)),
        ((1, 1), 3, (1,)),
        ((16, 1), 3, (1, 11, 16)),
        ((20, 0), 2, (1, 10)),
    ],
)
def test_when_partial_images_are_shown(nfe: tuple[int, int], num: int, marks: tuple[int, ...]):
    """After the first call, then evenly over the pixels that were computed; not after the last call."""
    plan = SimpleNamespace(links=[SimpleNamespace(nfe=each) for each in nfe], sizes=[(16, 16), (64, 64)])
    assert partial_marks(plan, num) == marks


def distance(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


def test_streaming_several_pictures(official):
    events = list(official.images.generate(prompt="red heart", n=3, stream=True, partial_images=1))
    completed = [event for event in events if event.type == "image_generation.completed"]
    assert [event.index for event in completed] == [0, 1, 2]
    assert len({event.b64_json for event in completed}) == 3


@pytest.mark.parametrize(
    ("said", "param", "message"),
    [
        ({"size": "65x64"}, "size", "multiples"),
        ({"size": "1024x1024"}, "size", "at most 256 px a side"),
        ({"size": "wide"}, "size", "size: "),
        ({"n": 11}, "n", "n: Input should be less than or equal to 10"),
        ({"n": "two"}, "n", "n: Input should be a valid integer"),
        ({"prompt": "x" * 2001}, "prompt", "2001 characters"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"background": "transparent"}, "background", "opaque"),
        ({"partial_images": 2}, "partial_images", "only with stream"),
        ({"stream": True, "partial_images": 4}, "partial_images", "less than or equal to 3"),
        ({"seed": -2}, "seed", "greater than or equal to -1"),
        ({"steps": 101}, "steps", "at most 100"),
        ({"steps": 0}, "steps", "greater than or equal to 1"),
        ({"guidance": -1}, "guidance", "guidance_scale"),
        ({"settings": {"base_61": {}}}, "settings", "did you mean base_16?"),
        ({"settings": {"base_16": {"num_steps": 1000}}}, "settings", "at most 100"),
        ({"settings": {"base_16": {"steps": 4}}}, "settings", "steps"),
        ({"cfg_rescale": 1}, "cfg_rescale", "cfg_rescale: no such field"),
        ({"step": 4}, "step", "did you mean steps?"),
    ],
)
def test_mistakes_are_their_exceptions(official, said: dict[str, Any], param: str, message: str):
    with pytest.raises(openai.BadRequestError, match=re.escape(message)) as caught:
        official.images.generate(prompt="x", extra_body=said)
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


def test_other_mistakes_are_their_exceptions(official, serving: Serving):
    with pytest.raises(openai.NotFoundError, match="dall-e-3") as caught:
        official.images.generate(model="dall-e-3", prompt="x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    answer = serving.client.post("/v1/images/generations", content="{")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, None)
    answer = serving.client.post("/v1/images/generations", json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert serving.client.post("/v1/jobs", json={"num": 0}).status_code == 422  # the native API's form stays


def test_numbers_as_other_servers_take_them(official):
    """Numbers as text; a seed of -1 is a new one each time."""
    images = [
        official.images.generate(prompt="red heart", n="2", extra_body={"seed": seed, "steps": "2"}).data
        for seed in (-1, "-1", "5", 5)
    ]
    assert [len(each) for each in images] == [2] * 4
    first, second, *same = [each[0].b64_json for each in images]
    assert first != second
    assert same[0] == same[1]


def test_steps_guidance_and_settings(official, serving: Serving):
    """They do what the native API's settings do, those of a stage over those of all; guidance is for stages with a condition."""

    def calls() -> list[int]:
        return [stage.calls for stage in serving.engine.stats.values()]

    more = {"seed": 3, "steps": 3, "guidance": 1.5, "settings": {"sr_64": {"num_steps": 2, "aug_sigma": 0.2}}}
    before = calls()
    answer = official.images.generate(prompt="red heart", extra_body=more)
    assert [now - then for now, then in zip(calls(), before, strict=True)] == [3, 2]
    settings = {
        "base_16": {"num_steps": 3, "guidance_scale": 1.5}, "sr_64": {"num_steps": 2, "aug_sigma": 0.2}
    }  # fmt: skip
    job = serving.client.run(seed=3, settings=settings)
    image = opened(answer.data[0].b64_json)
    stored = Image.open(io.BytesIO(serving.client.get(job["stages"][-1]["urls"][0]).content))
    assert distance(image, stored) == 0
    assert serving.client.get("/v1/jobs?limit=2").json()["jobs"][1]["settings"] == settings


def test_a_request_has_an_id_that_the_log_names(official, caplog, monkeypatch):
    monkeypatch.setattr(caplog.handler, "formatter", logs.Lines())

    def lines() -> list[str]:
        return [line for line in caplog.text.splitlines() if "POST /v1/images/generations" in line]

    with caplog.at_level("INFO", "cascade.serve"):
        number = official.images.generate(prompt="x", extra_body={"steps": 1})._request_id
        with pytest.raises(openai.BadRequestError) as caught:
            official.images.generate(prompt="x", n=11, extra_headers={"x-request-id": "from-a-proxy"})
        until(lambda: len(lines()) == 2)  # the log is written after the answer
    assert number
    assert caught.value.request_id == "from-a-proxy"
    assert [number in lines()[0], "from-a-proxy" in lines()[1]] == [True, True]


@pytest.mark.parametrize("partial_images", [0, 1])
def test_a_reader_that_gives_up_on_silence(serve, partial_images: int):
    """Proxies and readers do after a while in which nothing comes, whatever the job does."""
    serving = serve(cascade=slowed(load(), 0.25), limits=Limits(heartbeat_s=0.5))
    timeout = httpx.Timeout(60, read=3)
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="x", max_retries=0, timeout=timeout) as official:
        events = official.images.generate(prompt="x", stream=True, partial_images=partial_images)
        assert [event.type.rpartition(".")[2] for event in events] == ["partial_image"] * partial_images + ["completed"]


@pytest.mark.parametrize(
    ("more", "heartbeat_s", "call_s", "steps"),
    [
        ("proxy_read_timeout 3s;", 0.5, 0.25, 20),
        pytest.param("", Limits().heartbeat_s, 0.35, 200, marks=pytest.mark.matrix),  # 60 s of silence are too many
    ],
    ids=["in small", "defaults"],
)
def test_a_stream_through_nginx(serve, nginx, more: str, heartbeat_s: float, call_s: float, steps: int):
    """With nothing but `proxy_pass`, a job that computes for longer than it waits for the next byte: whole, not cut."""
    serving = serve(cascade=slowed(load(), call_s), limits=Limits(heartbeat_s=heartbeat_s))
    serving.client.run()  # the text encoder is there
    proxy = nginx(f"location / {{ proxy_pass {serving.url}; {more} }}")
    settings = {"base_16": {"num_steps": steps // 2}, "sr_64": {"num_steps": steps // 2}}
    timeout = httpx.Timeout(60, read=heartbeat_s + 5)  # nothing is held back
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="x", max_retries=0, timeout=timeout) as official:
        events = official.images.generate(prompt="x", stream=True, extra_body={"settings": settings})
        assert [event.type for event in events] == ["image_generation.completed"]


def test_keys(serve):
    serving = serve(keys=Keys({"alice": KEY}))
    wrong = openai.OpenAI(base_url=f"{serving.url}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.images.generate(prompt="x")
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key=KEY, max_retries=0) as right:
        assert opened(right.images.generate(prompt="x").data[0].b64_json).size == (64, 64)


def test_a_full_queue_is_their_rate_limit(serve):
    serving = serve(cascade=slowed(load(), 0.1), max_waiting=1)
    job = serving.client.start(settings={"base_16": {"num_steps": 100}})
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="x", max_retries=0) as official:
        with pytest.raises(openai.RateLimitError) as caught:
            official.images.generate(prompt="x")
        assert int(caught.value.response.headers["retry-after"]) >= 1
    serving.client.delete(job["url"])


def test_a_job_that_somebody_cancels_is_an_error(serve):
    serving = serve(cascade=slowed(load(), 0.3))

    def running() -> list[str]:
        return [job["url"] for job in serving.client.get("/v1/jobs").json()["jobs"] if job["state"] == "running"]

    def cancel() -> None:
        until(running)
        serving.client.delete(running()[0])

    with (
        openai.OpenAI(base_url=f"{serving.url}/v1", api_key="x", max_retries=0) as official,
        ThreadPoolExecutor() as pool,
    ):
        cancelling = pool.submit(cancel)
        with pytest.raises(openai.APIError, match="cancelled"):
            list(official.images.generate(prompt="x", stream=True, partial_images=1))
        cancelling.result()
        until(lambda: not serving.engine.waiting)
        cancelling = pool.submit(cancel)
        with pytest.raises(openai.ConflictError, match="cancelled"):
            official.images.generate(prompt="x")
        cancelling.result()


def test_a_failure_in_mid_stream_is_an_error(serve):
    serving = serve(cascade=poisoned(load(), 80.0))  # the sigma_max of the shipped base stage
    with openai.OpenAI(base_url=f"{serving.url}/v1", api_key="x", max_retries=0) as official:
        with pytest.raises(openai.APIError, match="NaN"):
            list(official.images.generate(prompt="x", stream=True, partial_images=1))
        with pytest.raises(openai.InternalServerError, match="NaN"):
            official.images.generate(prompt="x")
