"""The form: prompts, fields, settings, a picture to upscale, and Enter."""

import io
import re

import pytest
from PIL import Image

from tests.cascade.engines import seconds
from tests.serve.person import ask, ends, picture, refused, states
from tests.serve.serving import ROOT, Serving, until


@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_a_picture_to_upscale(serving: Serving, visit, how: str):
    page, path = visit(serving.url), ROOT / "data" / "emoji64" / "1f34e.png"
    if how == "chosen":
        page.set_input_files("#file", path)
    else:
        drop = """async bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "apple.png", {type: "image/png"}));
            for (const name of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(name, {dataTransfer: data, bubbles: true, cancelable: true}));
        }"""
        page.evaluate(drop, list(path.read_bytes()))
    page.wait_for_selector("#unfile:not([hidden])")
    assert page.inner_text("#file-name").endswith(
        "64\N{MULTIPLICATION SIGN}64 px, becomes 256\N{MULTIPLICATION SIGN}256 px"
    )
    assert [page.is_visible(f"#settings-{name}-num_steps") for name in ("base_16", "sr_64")] == [False, True]
    ask(page, "red apple", 1)
    ends(page, "finished")
    assert page.inner_text("#title") == "Upscaled: red apple"
    until(lambda: page.locator("#history a >> nth=0").inner_text().startswith("Upscaled: red apple"))
    job = serving.client.get("/v1/jobs").json()["jobs"][0]
    assert [stage["name"] for stage in job["stages"]] == ["sr_64"]
    picture = serving.client.get(job["stages"][0]["urls"][0]).content
    assert Image.open(io.BytesIO(picture)).size == (256, 256)
    assert page.inner_text(".side") == "256 px"


def test_a_picture_that_is_too_large_to_be_enlarged_is_shrunk_first(serving: Serving, visit):
    page = visit(serving.url)
    page.set_input_files("#file", picture("png", 65))
    page.wait_for_selector("#unfile:not([hidden])")
    told = "made 16 px small first; the result, 64 px, will not be larger than it was"
    assert page.inner_text("#file-name").endswith(
        f"65\N{MULTIPLICATION SIGN}65 px, more than is enlarged here as it is; {told}"
    )
    ask(page, "leaf", 1)
    ends(page, "finished")
    assert page.inner_text(".side") == "64 px"


@pytest.mark.parametrize("file", [ROOT / "README.md", picture("gif")], ids=["text", "gif"])
def test_a_file_of_another_kind_is_refused_at_once(serving: Serving, visit, file):
    page = visit(serving.url)
    page.set_input_files("#file", file)
    page.wait_for_selector("#error:not([hidden])")
    assert re.match(r"(README.md|leaf.gif) is no picture of a kind that is taken", page.inner_text("#error"))
    assert page.is_hidden("#unfile")


def test_sliders_reach_the_job(serving: Serving, visit):
    page = visit(serving.url)
    move = "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})); }"
    page.eval_on_selector("#settings-sr_64-aug_sigma", move, "0.3")
    page.eval_on_selector("#settings-base_16-guidance_scale", move, "4")
    ask(page, num=1)
    ends(page, "finished")
    job = serving.client.get("/v1/jobs").json()["jobs"][0]
    assert job["settings"] == {"sr_64": {"aug_sigma": 0.3}, "base_16": {"guidance_scale": 4}}
    told = "16 px: guidance_scale 4 · 64 px: aug_sigma 0.3"
    assert page.inner_text("#meta").strip() == f"seed {job['seed']} · 1 picture · {told}"
    until(lambda: told in page.inner_text("#history a >> nth=0"))
    page.reload()
    ends(page, "finished")
    page.click("#reuse")
    page.click("#go")
    until(lambda: serving.client.get("/v1/jobs").json()["jobs"][0]["id"] != job["id"])
    again = serving.client.get("/v1/jobs").json()["jobs"][0]
    assert [again[key] for key in ("prompts", "num", "seed", "settings")] == [
        job[key] for key in ("prompts", "num", "seed", "settings")
    ]
    ends(page, "finished")


def test_used_again_it_is_held_as_it_was(serving: Serving, visit):
    page = visit(serving.url)
    for hold in (True, False):
        page.set_checked("#hold", hold)
        ask(page, num=1)
        ends(page, "held" if hold else "finished")
        page.set_checked("#hold", not hold)
        page.click("#reuse")
        assert page.is_checked("#hold") == hold


def test_enter_that_is_held_paints_once(serving: Serving, visit):
    page = visit(serving.url)
    before = len(states(serving))
    page.fill("#num", "1")
    page.check("#hold")
    page.focus("#prompt")
    for _ in range(20):
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    ends(page, "held")
    assert len(states(serving)) == before + 1
    assert page.locator("#grid [aria-pressed=true]").count() == 0


def test_several_prompts_are_typed_on_a_phone(serving: Serving, visit):
    page = visit(serving.url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert "one prompt a line" in page.inner_text("#text-field label")
    assert "Shift" not in page.inner_text("#text-field label")
    page.tap("#prompt")
    page.keyboard.type("red heart\nblue circle")
    assert page.input_value("#prompt") == "red heart\nblue circle"
    assert page.is_hidden("#job")
    page.fill("#num", "1")
    page.check("#hold")
    page.tap("#go")
    ends(page, "held")
    assert serving.client.get("/v1/jobs").json()["jobs"][0]["prompts"] == ["red heart", "blue circle"]


def test_with_a_keyboard_enter_paints_and_shift_makes_a_line(serving: Serving, visit):
    page = visit(serving.url)
    assert "Shift+Enter: new line" in page.inner_text("#text-field label")
    page.check("#hold")
    page.fill("#num", "1")
    page.focus("#prompt")
    page.keyboard.type("red heart")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("blue circle")
    page.keyboard.press("Enter")
    ends(page, "held")
    assert serving.client.get("/v1/jobs").json()["jobs"][0]["prompts"] == ["red heart", "blue circle"]


def test_an_emptied_field_is_red_while_it_is_written_in(serving: Serving, visit):
    page = visit(serving.url)
    red = page.evaluate("""() => {
        const node = document.body.appendChild(document.createElement("p"));
        node.style.color = "var(--bad)";
        return getComputedStyle(node).color;
    }""")
    for field in ("#settings-sr_64-num_steps-value", "#num", "#seed"):
        assert border(page, field) != red
        page.fill(field, "")
        page.focus(field)
        page.hover(field)
        until(lambda field=field: border(page, field) == red)


def border(page, field: str) -> str:
    return page.eval_on_selector(field, "input => getComputedStyle(input).borderTopColor")


def test_what_is_left_out_is_folded_away_and_warns_of_the_prompts_words(serving: Serving, visit):
    page = visit(serving.url)
    assert page.is_hidden("#negative")
    page.click("#not summary")
    assert "would take its subject away" in page.inner_text("#negative-hint")
    page.fill("#prompt", "Red heart, of glass")
    page.fill("#negative", "a blue HEART of")
    assert page.inner_text("#negative-hint") == "“heart” is in the prompt, too: its subject may go"
    page.fill("#prompt", "red apple")
    assert "would take its subject away" in page.inner_text("#negative-hint")
    page.fill("#negative", "blue")
    page.check("#hold")
    ask(page, "red apple", 1, hold=True)
    ends(page, "held")
    job = serving.client.get("/v1/jobs").json()["jobs"][0]
    assert job["negative"] == ["blue"]
    assert "not: blue" in page.inner_text("#meta")
    page.reload()
    ends(page, "held")
    page.click("#reuse")
    assert page.is_visible("#negative")
    assert page.input_value("#negative") == "blue"


def test_within_a_time(serve, visit, said):
    server = serve(clock=seconds())  # a call is a second
    page = visit(server.url)
    page.fill("#seconds", "10")
    ask(page, num=1)
    ends(page, "finished")
    job = server.client.get("/v1/jobs").json()["jobs"][0]
    steps = {name: values["num_steps"] for name, values in job["settings"].items()}
    assert steps == {"base_16": 8, "sr_64": 2}
    assert "16 px: num_steps 8 · 64 px: num_steps 2" in page.inner_text("#meta")
    page.click("#reuse")
    assert page.input_value("#seconds") == ""
    assert page.input_value("#settings-base_16-num_steps-value") == "8"
    for wrong in ("0", "-1"):
        page.fill("#seconds", wrong)
        page.click("#go")
        page.wait_for_selector("#seconds:invalid")
    page.click("#defaults")
    page.fill("#seconds", "0.01")
    refused(page, said, 422, "0.01 s is too short, the least takes about")
    assert len(states(server)) == 1
