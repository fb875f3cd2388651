"""The page does what it shows: each test compares what a control says with what the server was asked for."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from cascade.serve.http.limits import Limits
from tests.serve.person import ask, ends, picture, refused
from tests.serve.serving import ROOT, Client, Gate, Serving, until

EXACT = {
    "base_16": {"sampler": "heun", "num_steps": 70, "guidance_scale": 50, "sigma_max": 40.5},
    "sr_64": {"aug_sigma": 0.1234567, "num_steps": 2, "guidance_interval": [0.1, 30.0]},
}


def newest(client: Client) -> dict[str, Any]:
    return client.get("/v1/jobs").json()["jobs"][0]


def made(page, client: Client, button: str) -> dict[str, Any]:
    """The job that a click makes; its pictures are not waited for."""
    before = newest(client)["id"]
    page.click(button)
    until(lambda: newest(client)["id"] != before, 60)
    job = newest(client)
    client.delete(job["url"])
    assert client.finish(job["id"]) in ("cancelled", "finished", "held")
    page.wait_for_selector(f"#history a[href='#{job['id']}'][aria-current]")
    page.wait_for_selector("#reuse:not([hidden])")
    return job


def show(page, job: str) -> None:
    page.goto(f"{page.url.partition('#')[0]}#{job}")
    page.wait_for_selector("#reuse:not([hidden])")


def top(job: dict[str, Any]) -> dict[str, Any]:
    return job["settings"]["sr_64"]


def test_redo_runs_with_what_its_sliders_show(serving: Serving, visit):
    """Not with what the job had that the pictures are of; values beyond the slider and what has no control too."""
    client = serving.client
    held = client.run(until="base_16", num=2)
    asked = {"num_steps": 3, "aug_sigma": 0.1234567, "sampler": "euler", "rho": 5.5}
    child = client.post(f"{held['url']}/refine", json={"settings": {"sr_64": asked}}).json()
    assert client.finish(child["id"]) == "finished"
    page = visit(serving.url)
    show(page, child["id"])
    page.click("#again summary")
    shown = {key: page.input_value(f"#next-settings-sr_64-{key}-value") for key in ("num_steps", "aug_sigma")}
    assert shown == {"num_steps": "3", "aug_sigma": "0.1234567"}
    assert page.input_value("#next-settings-sr_64-sampler") == "euler"
    assert page.inner_text("#next-settings .chip") == "rho 5.5"
    page.fill("#next-settings-sr_64-num_steps-value", "70")
    said = top(made(page, client, "#refine"))
    asked["num_steps"] = 70
    assert {key: said[key] for key in asked} == asked
    page.click("#again summary")
    assert page.input_value("#next-settings-sr_64-num_steps-value") == "70"
    page.select_option("#next-settings-sr_64-sampler", "heun")
    page.click("#next-settings .chip button")
    page.click("#all")
    said = top(made(page, client, "#refine"))
    assert (said["num_steps"], said["sampler"], said["aug_sigma"]) == (70, "heun", 0.1234567)


def test_what_a_refinement_is_made_with_is_in_sight(serving: Serving, visit):
    """Not the sliders of the form."""
    page = visit(serving.url)
    ask(page, num=2, hold=True)
    ends(page, "held")
    assert page.is_hidden("#next-settings")
    page.fill("#settings-sr_64-num_steps-value", "7")
    page.click(".pick >> nth=0")
    assert page.is_visible("#next-settings-sr_64-num_steps-value")
    shown = int(page.input_value("#next-settings-sr_64-num_steps-value"))
    assert top(made(page, serving.client, "#refine"))["num_steps"] == shown != 7


def test_used_again_it_is_the_same_to_the_last_digit(serving: Serving, visit):
    client = serving.client
    prompts = ["red  heart", "two\nlines", " blank "]
    job = client.start(prompts=prompts, seed=2**63 - 1, size=[128, 64], settings=EXACT)
    client.delete(job["url"])
    client.finish(job["id"])
    job = newest(client)
    page = visit(serving.url)
    show(page, job["id"])
    page.click("#reuse")
    assert page.input_value("#seed") == str(2**63 - 1)
    assert page.locator("#ask .chip").all_inner_texts() == [
        "128\N{MULTIPLICATION SIGN}64 px", "sigma_max 40.5", "guidance_interval 0.1 to 30"
    ]  # fmt: skip
    again = made(page, client, "#go")
    for key in ("prompts", "num", "seed", "size", "settings"):
        assert again[key] == job[key], key
    for chip in (2, 1, 0):
        page.click(f"#ask .chip button >> nth={chip}")
    page.fill("#prompt", "red heart")
    last = made(page, client, "#go")
    assert (last["size"], last["prompts"], last["seed"]) == (None, ["red heart"], 2**63 - 1)
    assert last["settings"] == {
        "base_16": {key: EXACT["base_16"][key] for key in ("sampler", "num_steps", "guidance_scale")},
        "sr_64": {key: EXACT["sr_64"][key] for key in ("aug_sigma", "num_steps")},
    }


def test_a_value_that_is_not_allowed_is_said_and_nothing_is_made(serving: Serving, visit):
    page = visit(serving.url, viewport={"width": 390, "height": 844})
    before = (
        newest(serving.client)["id"] if serving.client.get("/v1/jobs").json()["jobs"] else serving.client.run()["id"]
    )
    page.evaluate("() => { document.querySelector('#settings-sr_64-num_steps-value').value = 500 }")
    assert page.is_hidden("#settings")
    page.click("#go")
    page.wait_for_selector("#settings-sr_64-num_steps-value:invalid")
    assert page.is_visible("#settings")
    page.fill("#settings-sr_64-num_steps-value", "5")
    page.fill("#seed", str(2**63))
    page.click("#go")
    assert str(2**63 - 1) in page.eval_on_selector("#seed", "input => input.validationMessage")
    assert newest(serving.client)["id"] == before


def test_each_paint_has_another_seed_unless_it_is_locked(serving: Serving, visit):
    client = serving.client
    client.start()
    page = visit(serving.url)
    page.fill("#num", "1")
    page.check("#hold")
    seeds = []
    for _ in range(3):
        shown = page.input_value("#seed")
        seeds.append(made(page, client, "#go")["seed"])
        assert str(seeds[-1]) == shown
    assert len(set(seeds)) == 3
    page.fill("#seed", str(2**53 + 1))
    assert page.get_attribute("#lock", "aria-pressed") == "true"
    assert [made(page, client, "#go")["seed"] for _ in range(2)] == [2**53 + 1] * 2
    assert f"seed {2**53 + 1}" in page.inner_text("#meta")
    page.click("#lock")
    assert made(page, client, "#go")["seed"] == 2**53 + 1
    assert made(page, client, "#go")["seed"] != 2**53 + 1


def test_of_an_upscaled_picture_nothing_is_picked(serving: Serving, visit):
    """For the picture that was given is not kept: there is no stage to go on from."""
    page = visit(serving.url)
    page.set_input_files("#file", ROOT / "data" / "emoji64" / "1f34e.png")
    page.wait_for_selector("#unfile:not([hidden])")
    ask(page, "red apple", 2)
    ends(page, "finished")
    assert page.locator("#grid [aria-pressed]").count() == 0
    assert page.is_hidden("#next")
    until(lambda: page.locator("#grid img:not([hidden])").count() == 2)
    page.click(".pick >> nth=0")
    page.wait_for_selector("#large[open]")
    page.keyboard.press("Escape")
    assert page.locator("#grid [aria-pressed]").count() == 0


def test_picks_that_lead_nowhere_are_taken_back(serve, visit):
    """A job that ended before a stage was whole."""
    gate = Gate(free=2)
    page = visit(serve(cascade=gate.cascade).url)
    ask(page, num=2)
    page.wait_for_selector("#grid img:not([hidden])")
    page.click(".pick >> nth=1")
    assert page.locator("#grid [aria-pressed=true]").count() == 1
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.click("#cancel")
    gate.open()
    ends(page, "cancelled")
    assert page.locator("#grid [aria-pressed]").count() == 0


def sent(page, content: dict[str, object], num: int = 1) -> tuple[Image.Image, int]:
    """The picture that goes to the server when this one is chosen, and the bytes of that request."""
    page.set_input_files("#file", content)
    page.wait_for_selector("#unfile:not([hidden])")
    with page.expect_request(lambda request: request.method == "POST") as told:
        ask(page, "leaf", num)
    body = told.value.post_data_buffer
    image = told.value.post_data_json["image"]
    return Image.open(io.BytesIO(base64.b64decode(image))), len(body)


def photo(width: int, height: int, *, turned: bool = False, grain: bool = True) -> dict[str, object]:
    """The upper half red, with grain; turned: lying on its side, as a camera writes it, with the word of EXIF for it."""
    whole = Image.new("RGB", (width, height), (40, 60, 200))
    whole.paste((200, 40, 30), (0, 0, width, height // 2))
    if grain:
        whole = Image.blend(whole, Image.effect_noise((width, height), 90).convert("RGB"), 0.3)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
        whole = whole.transpose(Image.Transpose.ROTATE_90)
    content = io.BytesIO()
    whole.save(content, "JPEG", quality=92, exif=exif)
    return {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": content.getvalue()}


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_photograph_only_what_is_used_is_sent(serving: Serving, visit, turned: bool):
    page = visit(serving.url)
    given = photo(1600, 2400, turned=turned)
    assert len(given["buffer"]) > 1_700_000
    image, num_bytes = sent(page, given)
    assert num_bytes < 20_000
    assert image.size == (32, 48)
    assert image.getpixel((16, 8))[0] > image.getpixel((16, 8))[2]
    assert image.getpixel((16, 40))[0] < image.getpixel((16, 40))[2]
    ends(page, "finished")
    assert newest(serving.client)["stages"][0]["name"] == "sr_64"


def test_a_photograph_of_48_megapixels(serving: Serving, visit):
    page = visit(serving.url)
    image, num_bytes = sent(page, photo(8000, 6000, grain=False))
    assert (image.size, num_bytes < 20_000) == ((43, 32), True)
    ends(page, "finished")


def test_a_small_picture_is_sent_as_it_is(serving: Serving, visit):
    page = visit(serving.url)
    given = picture("png", 64)
    image, _ = sent(page, given)
    assert image.size == (64, 64)
    ends(page, "finished")


@pytest.mark.parametrize("whose", ["server", "proxy"])
def test_too_much_at_once_is_said_in_words(serve, visit, said, whose: str):
    server = serve(limits=Limits(body_bytes=2_000) if whose == "server" else None)
    page = visit(server.url)
    if whose == "proxy":
        page.route(
            "**/v1/jobs", lambda route: route.fulfill(status=413, body="<html>413 Request Entity Too Large</html>")
        )
    given = photo(48, 48)
    page.set_input_files("#file", given)
    page.wait_for_selector("#unfile:not([hidden])")
    refused(page, said, 413, "takes at once; choose a smaller picture")


def test_what_was_said_of_guidance_is_asked_again_while_its_chip_is_there(serving: Serving, visit):
    client = serving.client
    composed = [{"text": "a hat", "weight": 0.5}]
    guidance = {"base_16": [1.0, 2.5]}
    job = client.run(
        prompts=["red heart"],
        negative_prompt="blue",
        composed=composed,
        guidance=guidance,
        same_noise=True,
        until="base_16",
    )
    page = visit(serving.url)
    show(page, job["id"])
    page.click("#reuse")
    texts = [text.split("\n")[0] for text in page.locator("#kept .chip").all_inner_texts()]
    assert texts == ["also: a hat (0.5)", "guidance of each", "the same noise"]
    assert page.input_value("#negative") == "blue"
    assert "not: blue" in page.inner_text("#meta")
    again = made(page, client, "#go")
    for key in ("negative", "composed", "guidance", "same_noise"):
        assert again[key] == job[key]
    assert again["images"] == [0, 1]
    page.click("#reuse")
    page.fill("#negative", "")
    page.click("#kept .chip >> nth=0 >> button")
    last = made(page, client, "#go")
    assert "negative" not in last
    assert "composed" not in last
