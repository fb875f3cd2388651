"""`/v1/images/generations` by the official `openai` client."""

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from PIL import Image

from cascade.serve.limits import Keys
from tests.serve.serving import Serving, load, poisoned, slowed, until

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
        began, times, images = time.monotonic(), [], []
        for event in official.images.generate(prompt="red heart", stream=True, partial_images=2):
            times.append(time.monotonic() - began)
            images.append(opened(event.b64_json).convert("RGB"))
    assert times[0] < 0.6 * times[-1]
    errors = [distance(image, images[-1]) for image in images]
    assert errors[0] > errors[1] > errors[2] == 0


def distance(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean())


def test_streaming_several_pictures(official):
    events = list(official.images.generate(prompt="red heart", n=3, stream=True, partial_images=1))
    completed = [event for event in events if event.type == "image_generation.completed"]
    assert [event.index for event in completed] == [0, 1, 2]
    assert len({event.b64_json for event in completed}) == 3


def test_mistakes_are_their_exceptions(official):
    with pytest.raises(openai.NotFoundError, match="dall-e-3"):
        official.images.generate(model="dall-e-3", prompt="x")
    with pytest.raises(openai.UnprocessableEntityError, match="multiples"):
        official.images.generate(prompt="x", size="65x64")
    with pytest.raises(openai.UnprocessableEntityError, match="size"):
        official.images.generate(prompt="x", size="1024x1024")
    with pytest.raises(openai.UnprocessableEntityError, match="n:"):
        official.images.generate(prompt="x", n=11)
    with pytest.raises(openai.UnprocessableEntityError, match="response_format"):
        official.images.generate(prompt="x", response_format="url")
    with pytest.raises(openai.UnprocessableEntityError, match="partial_images"):
        official.images.generate(prompt="x", stream=True, partial_images=4)


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
    serving = serve(cascade=slowed(load(), 0.05))

    def cancel() -> None:
        until(lambda: serving.engine.waiting)
        serving.client.delete(serving.client.get("/v1/jobs").json()["jobs"][0]["url"])

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
