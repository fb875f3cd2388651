"""A part of a picture is marked on the page, by pointer and by keys, and painted anew; the rest stays, bit for bit."""

import io

import numpy as np
import pytest
from PIL import Image

from cascade.serve.http.keys import Keys
from tests.serve.person import ends, picture
from tests.serve.serving import ROOT, Client, Serving, until

KEY = "k" * 20
SMALL = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture
def finished(serving: Serving):
    """A job of two pictures."""
    return serving.client.run(prompts=["red heart"], num=2, negative_prompt="blue", labels=[])


def opened(visit, serving: Serving, job: dict, *, stage: str = "64 px", **options):
    """A page with the brush on the second picture."""
    page = visit(f"{serving.url}/#{job['id']}", **options)
    ends(page, "finished")
    page.click(".tile[data-k='1'] .open")
    page.click(f"#large-stages button:has-text('{stage}')")
    page.click("#large-brush")
    page.wait_for_selector("#brush[open]")
    return page


def drag(page, *places: tuple[float, float]) -> None:
    """Over the board, by shares of its sides."""
    box = page.locator("#board").bounding_box()
    x, y = zip(*places, strict=True)
    at = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in zip(x, y, strict=True)]
    page.mouse.move(*at[0])
    page.mouse.down()
    for each in at[1:]:
        page.mouse.move(*each, steps=4)
    page.mouse.up()


def marked(page) -> np.ndarray:
    """Which pixels the page shows as marked, (h, w)."""
    alpha = page.eval_on_selector("#brush-mask", """canvas => {
        const copy = Object.assign(document.createElement("canvas"), {width: canvas.width, height: canvas.height});
        const context = copy.getContext("2d", {willReadFrequently: true});
        context.drawImage(canvas, 0, 0);
        const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
        return [canvas.height, ...data.filter((_, i) => i % 4 === 3)];
    }""")  # fmt: skip
    return np.array(alpha[1:]).reshape(alpha[0], -1) > 0


def pixels(client: Client, job: dict, k: int, stage: str = "sr_64") -> np.ndarray:
    url = next(each["urls"][each["done"].index(k)] for each in job["stages"] if each["name"] == stage)
    return np.asarray(Image.open(io.BytesIO(client.get(url).content)).convert("RGB"))


def newest(serving: Serving, *, beside: str) -> dict:
    def first() -> dict:
        return serving.client.get("/v1/jobs?limit=1").json()["jobs"][0]

    until(lambda: first()["id"] != beside)
    serving.client.finish(first()["id"])
    return first()


def test_a_marked_part_is_painted_anew_and_the_rest_stays(serving: Serving, visit, finished):
    page = opened(visit, serving, finished)
    drag(page, (0.3, 0.3), (0.6, 0.3))
    mask = marked(page)
    assert mask.shape == (64, 64)
    assert mask[19, 19:38].all()
    assert not mask[40:].any()
    assert f"{int(100 * mask.mean())} % is painted anew" == page.inner_text("#brush-said")
    page.click("#brush-go")
    page.wait_for_selector("#brush", state="hidden")
    ends(page, "finished")
    job = newest(serving, beside=finished["id"])
    assert (job["parent"], job["images"], job["source"]) == (finished["id"], [1], "sr_64")
    old, new = (pixels(serving.client, each, 1) for each in (finished, job))
    assert np.array_equal(old[~mask], new[~mask])
    assert (old[mask] != new[mask]).any()
    assert "a part painted anew" in page.inner_text("#meta")
    assert page.is_hidden("#next")  # stages before saw a picture that is not theirs


def test_another_prompt_says_what_is_painted_there(serving: Serving, visit, finished):
    page = opened(visit, serving, finished)
    assert page.input_value("#brush-prompt") == "red heart"
    drag(page, (0.5, 0.5), (0.9, 0.9))
    mask = marked(page)
    page.fill("#brush-prompt", "green apple")
    page.keyboard.press("Enter")
    ends(page, "finished")
    job = newest(serving, beside=finished["id"])
    assert (job["parent"], job["prompts"], job["negative"]) == (None, ["green apple"], ["blue"])
    assert job["settings"] == finished["settings"]
    old, new = pixels(serving.client, finished, 1), pixels(serving.client, job, 0)
    assert np.array_equal(old[~mask], new[~mask])
    page.click("#reuse")
    assert "is not kept" in page.inner_text("#error")


def test_a_smaller_stage_is_painted_anew_and_the_larger_follow(serving: Serving, visit, finished):
    page = opened(visit, serving, finished, stage="16 px")
    assert page.is_hidden("#brush-prompt-field")
    drag(page, (0.5, 0.5), (0.8, 0.8))
    mask = marked(page)
    assert mask.shape == (16, 16)
    page.click("#brush-go")
    ends(page, "finished")
    job = newest(serving, beside=finished["id"])
    assert job["source"] == "base_16"
    old, new = (pixels(serving.client, each, 1, "base_16") for each in (finished, job))
    assert np.array_equal(old[~mask], new[~mask])
    until(lambda: page.is_visible("#next"))  # its 16 px are whole, and kept


def test_with_the_keyboard_alone(serving: Serving, visit, finished):
    page = opened(visit, serving, finished)
    until(lambda: page.evaluate("document.activeElement.id") == "board")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert not marked(page).any()
    page.keyboard.press("Space")
    dot = marked(page)
    assert dot[32, 20]
    assert not dot[32, 32]
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert marked(page)[32, 20:33].all()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    line = marked(page)
    page.keyboard.press("Control+z")
    assert not marked(page).any()
    for name, wanted in (("Invert", np.ones((64, 64), bool)), ("Undo", np.zeros((64, 64), bool))):
        page.focus(f"#brush-{name.lower()}")
        page.keyboard.press("Enter")
        assert np.array_equal(marked(page), wanted)
    page.focus("#board")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Space")
    assert 0 < marked(page).sum() < line.sum()
    page.focus("#brush-go")
    page.keyboard.press("Enter")
    ends(page, "finished")
    assert newest(serving, beside=finished["id"])["parent"] == finished["id"]


def test_the_eraser_the_size_and_what_cannot_be_sent(serving: Serving, visit, finished):
    page = opened(visit, serving, finished)
    before = serving.client.get("/v1/jobs?limit=1").json()["jobs"][0]["id"]
    page.click("#brush-go")
    assert page.inner_text("#brush-error").startswith("Nothing is marked")
    page.click("#brush-invert")
    assert page.is_hidden("#brush-error")
    page.click("#brush-go")
    assert page.inner_text("#brush-error").startswith("Everything is marked")
    page.click("#brush-off")
    page.eval_on_selector(
        "#brush-size", "input => { input.value = 1; input.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    drag(page, (0.255, 0.505), (0.755, 0.505))
    assert (~marked(page)).sum() == 33  # one pixel wide
    page.click("#brush-clear")
    assert not marked(page).any()
    assert page.get_attribute("#brush-clear", "aria-disabled") == "true"
    page.click("#brush-clear", force=True)  # which does nothing
    page.click("#brush-undo")
    assert (~marked(page)).sum() == 33
    page.click("#brush-on")
    drag(page, (0.4, 0.4), (-0.2, 0.4), (0.4, 1.3))  # beyond the edge, and back
    page.fill("#brush-prompt", "x" * 3000)
    assert page.locator("#brush-go").bounding_box() is not None
    page.keyboard.press("Escape")
    page.wait_for_selector("#brush", state="hidden")
    assert serving.client.get("/v1/jobs?limit=1").json()["jobs"][0]["id"] == before


def test_a_refusal_stands_in_the_dialog(serving: Serving, visit, finished, said):
    page = opened(visit, serving, finished)
    drag(page, (0.4, 0.4), (0.5, 0.5))
    page.fill("#brush-prompt", "x" * 3000)
    page.click("#brush-go")
    until(lambda: "2000 are allowed" in page.inner_text("#brush-error"))
    assert marked(page).any()
    assert all("422" in line for line in said)
    said.clear()


def test_a_finger_marks_on_a_phone_and_does_not_scroll(serving: Serving, visit, finished):
    page = opened(visit, serving, finished, **SMALL)
    box = page.locator("#board").bounding_box()
    touch = page.context.new_cdp_session(page)

    def send(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in places]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", (0.5, 0.2))
    send("touchMove", (0.5, 0.5))
    send("touchMove", (0.5, 0.8))
    send("touchEnd")
    until(lambda: marked(page)[20:45, 32].all())
    whole = marked(page)
    assert page.locator("#board").bounding_box() == box
    send("touchStart", (0.1, 0.1))
    send("touchMove", (0.1, 0.3))
    send("touchCancel")
    until(lambda: np.array_equal(marked(page), whole))  # a stroke that the system broke off goes
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for each in ("#brush-go", "#brush-undo", "#brush-size"):
        area = page.locator(each).bounding_box()
        assert 0 <= area["x"] <= 390 - area["width"]
        assert area["y"] + area["height"] <= 844


def test_an_uploaded_picture_is_painted_over(serving: Serving, visit, said):
    page = visit(serving.url)
    page.set_input_files("#file", picture("png", 32))
    page.click("#paint-over")
    page.wait_for_selector("#error:not([hidden])")
    assert "needs 64 px at its shorter side" in page.inner_text("#error")
    content = io.BytesIO()
    whole = Image.open(ROOT / "data" / "emoji64" / "1f34e.png").convert("RGB").resize((300, 200))
    whole.save(content, "PNG")
    page.set_input_files("#file", {"name": "wide.png", "mimeType": "image/png", "buffer": content.getvalue()})
    until(lambda: page.inner_text("#file-name").startswith("wide.png"))
    page.fill("#prompt", "green apple")
    page.fill("#num", "2")
    page.click("#paint-over")
    page.wait_for_selector("#brush[open]")
    assert marked(page).shape == (128, 192)
    drag(page, (0.2, 0.5), (0.5, 0.5))
    with page.expect_request(lambda request: request.method == "POST") as told:
        page.click("#brush-go")
    body = told.value.post_data_json
    assert (body["prompts"], body["num"], body["fit"]) == (["green apple"], 2, True)
    ends(page, "finished")
    until(lambda: page.locator("#grid img:not([hidden])").count() == 2)
    job = serving.client.get("/v1/jobs?limit=1").json()["jobs"][0]
    assert [each["name"] for each in job["stages"]] == ["base_16", "sr_64"]
    assert Image.open(io.BytesIO(serving.client.get(job["stages"][1]["urls"][0]).content)).size == (96, 64)


def test_pictures_that_want_a_key(serve, visit, said):
    server = serve(keys=Keys({"someone": KEY}))
    page = visit(server.url, ready="#key-form:not([hidden])")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask:not([hidden])")
    said.clear()
    page.fill("#num", "1")
    page.click("#go")
    ends(page, "finished")
    page.wait_for_selector(".tile:not(.rough) .open")
    for prompt in (None, "green apple"):
        page.click(".open")
        page.click("#large-brush")
        page.wait_for_selector("#brush[open]")
        drag(page, (0.4, 0.4), (0.6, 0.6))
        if prompt:
            page.fill("#brush-prompt", prompt)
        before = page.evaluate("location.hash")
        page.click("#brush-go")
        until(lambda before=before: page.evaluate("location.hash") != before)
        ends(page, "finished")
        page.wait_for_selector(".tile:not(.rough) .open:not([hidden])")


def test_every_control_has_a_name(serving: Serving, visit, finished):
    page = opened(visit, serving, finished)
    names = page.eval_on_selector_all(
        "#brush :is(button, input, textarea, [tabindex])",
        "all => all.map(each => each.ariaLabel || each.labels?.[0]?.textContent.trim() || each.textContent.trim())",
    )
    assert all(names)
    assert {"Brush", "Eraser", "Undo", "Invert", "Clear", "Close", "Prompt", "Paint it anew"} <= set(names)
