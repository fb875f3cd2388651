"""The page in a real browser against a real server: what a person does, and that nothing is said in the console meanwhile."""

import io
import json
import re
import time
from dataclasses import replace

import pytest
from PIL import Image

from cascade.serve.http.keys import Keys
from cascade.serve.http.limits import Limits
from tests.serve.serving import ROOT, Gate, Serving, load, slowed, until

SHOWN = "#grid img:not([hidden])"
EVENTS = re.compile(r"/v1/events\?")


def ask(page, prompt: str = "red heart", num: int = 2, *, hold: bool = False) -> None:
    page.fill("#prompt", prompt)
    page.fill("#num", str(num))
    if hold:
        page.check("#hold")
    page.click("#go")


def ends(page, state: str) -> None:
    page.wait_for_selector(f"#job[data-state={state}]")


def delete_job(page) -> None:
    """The one that is shown; the second click counts when it does not follow at once."""
    while page.is_visible("#job"):
        page.click("#delete")
        page.wait_for_timeout(600)


def sides(page) -> list[int]:
    """Natural widths of the pictures that are shown."""
    return page.eval_on_selector_all(SHOWN, "all => all.map(img => img.naturalWidth)")


def states(server: Serving) -> list[str]:
    """Of all jobs, the newest first."""
    return [job["state"] for job in server.client.get("/v1/jobs").json()["jobs"]]


def test_pictures_begin_small_and_sharpen(serve, visit):
    gate = Gate(free=3)
    page = visit(serve(cascade=gate.cascade).url)
    ask(page, num=3)
    page.wait_for_selector(SHOWN)
    until(lambda: sides(page) == [16, 16, 16])
    assert page.locator("#job").get_attribute("data-state") == "running"
    gate.open()
    ends(page, "finished")
    until(lambda: sides(page) == [64, 64, 64])


def test_hold_pick_two_refine_only_these(serving: Serving, visit):
    page = visit(serving.url)
    ask(page, num=4, hold=True)
    ends(page, "held")
    for k in (1, 3):
        page.click(f".tile[data-k='{k}'] .pick")
    page.click("#refine")
    ends(page, "finished")
    assert page.eval_on_selector_all(".tile", "all => all.map(tile => tile.dataset.k)") == ["1", "3"]
    newest, held = serving.client.get("/v1/jobs").json()["jobs"][:2]
    assert newest["parent"] == held["id"]
    assert newest["images"] == [1, 3]


def test_with_the_keyboard_alone(serving: Serving, visit):
    page = visit(serving.url)
    page.check("#hold")
    page.focus("#num")
    page.keyboard.press("Control+a")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    ends(page, "held")
    assert focused(page) == "0"
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    ends(page, "finished")
    assert page.eval_on_selector_all(".tile", "all => all.map(tile => tile.dataset.k)") == ["0", "2"]
    assert focused(page) == "0"


def focused(page) -> str:
    """The picture whose tile has the focus."""
    return page.evaluate("document.activeElement.closest('.tile')?.dataset.k")


def test_cancel(serve, visit):
    gate = Gate(free=2)
    server = serve(cascade=gate.cascade)
    page = visit(server.url)
    ask(page)
    page.wait_for_selector(SHOWN)
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.click("#cancel")
    gate.open()
    ends(page, "cancelled")
    until(lambda: server.engine.waiting == 0)


def test_a_cancelled_job_goes_on_from_a_stage_that_is_whole(serve, visit):
    gate = Gate(free=0, side=64)
    page = visit(serve(cascade=gate.cascade).url)
    ask(page)
    page.wait_for_selector("#rail li.done")
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        page.click("#cancel")
    gate.open()
    ends(page, "cancelled")
    page.click(".tile[data-k='1'] .pick")
    page.click("#refine")
    ends(page, "finished")
    assert page.locator(".tile").count() == 1


def test_a_job_runs_on_while_another_is_shown(serve, visit):
    gate = Gate(free=3)
    server = serve(cascade=gate.cascade, limits=Limits(abandon_s=0.3))
    page = visit(server.url)
    ask(page, "red heart", 3)
    page.wait_for_selector(SHOWN)
    ask(page, "blue circle", 1, hold=True)
    until(lambda: page.locator(".tile").count() == 1)
    page.locator("#history a", has_text="red heart").click()
    until(lambda: page.locator(".tile").count() == 3)
    ends(page, "running")
    gate.open()
    ends(page, "finished")
    until(lambda: sides(page) == [64, 64, 64])
    assert "red heart" in page.inner_text("#title")
    until(lambda: page.inner_text("#status") == "Done")
    until(lambda: states(server) == ["held", "finished"])
    until(lambda: "held" in page.inner_text("#history"))
    until(lambda: "running" not in page.inner_text("#history"))


def test_all_running_jobs_of_a_page_share_a_stream(serve, visit):
    gate = Gate(free=6)
    server = serve(cascade=gate.cascade, limits=Limits(abandon_s=2.0))
    page = visit(server.url)
    prompts = ("one", "two", "three", "four", "five", "six", "seven")
    for prompt in prompts:
        ask(page, prompt, 1)
        until(lambda prompt=prompt: page.inner_text("#title") == prompt)
    until(lambda: server.service.streams.num == 1)
    time.sleep(2.5)  # nobody is left unwatched for longer than a job may be
    assert set(states(server)) <= {"running", "queued"}
    gate.open()
    until(lambda: states(server) == ["finished"] * 7, 120)
    until(lambda: page.locator("#history a", has_text="running").count() == 0)
    until(lambda: server.service.streams.num == 0)


def test_the_window_tells_how_far_a_job_is(serve, visit):
    gate = Gate(free=3)
    page = visit(serve(cascade=gate.cascade).url)
    assert page.title() == "emoji_tiny"
    ask(page, num=1)
    until(lambda: re.fullmatch("[1-9][0-9]?% · emoji_tiny", page.title()))
    gate.open()
    ends(page, "finished")
    until(lambda: page.title() == "emoji_tiny")


def test_of_many_pictures_the_done_ones_are_counted(serve, visit):
    gate = Gate(free=0)
    page = visit(serve(cascade=gate.cascade).url)
    page.evaluate("""() => {
        window.heard = [];
        const status = document.querySelector("#status");
        new MutationObserver(() => heard.push(status.textContent)).observe(status, {childList: true});
    }""")
    ask(page, num=5)
    until(lambda: "16 px: 0% · 0 of 5 done" in page.evaluate("heard"))
    gate.open()
    ends(page, "finished")
    heard = page.evaluate("heard")
    assert "5 of 5 done" in heard
    assert not any("step" in line for line in heard)
    shares = [int(line[1]) for said in heard if (line := re.fullmatch("16 px: ([0-9]+)% · 0 of 5 done", said))]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2


def test_without_a_connection_no_time_is_left(serve, visit):
    page = visit(serve(cascade=slowed(load(), 0.1)).url)

    def preview(route) -> None:
        job = re.search("jobs=([^:]+)", route.request.url)[1]
        data = {"job": job, "stage": "base_16", "step": 1, "nfe": 9, "eta_s": 30, "pictures": []}
        body = f"id: {job}:1\nevent: preview\ndata: {json.dumps(data)}\n\n"
        route.fulfill(content_type="text/event-stream", body=body)

    page.route(EVENTS, preview)
    ask(page, num=1)
    until(lambda: page.inner_text("#status").startswith("Connection lost"))
    assert page.inner_text("#eta") == ""


def test_a_tile_without_a_picture_has_nothing_to_enlarge(serve, visit):
    page = visit(serve(cascade=slowed(load(), 0.3)).url)
    page.route(EVENTS, lambda route: route.fulfill(content_type="text/event-stream", body=""))
    ask(page, num=1)
    page.wait_for_selector(".tile")
    assert page.is_hidden(".open")
    page.unroute(EVENTS)
    page.wait_for_selector(SHOWN)
    assert page.is_visible(".open")


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


def picture(kind: str, side: int = 32) -> dict[str, object]:
    """A file to choose."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), "green").save(content, kind)
    return {"name": f"leaf.{kind}", "mimeType": f"image/{kind}", "buffer": content.getvalue()}


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


def test_the_large_view_goes_to_the_next_picture(serving: Serving, visit):
    page = visit(serving.url)
    ask(page, num=3)
    ends(page, "finished")
    page.click(".tile[data-k='1'] .open")
    for key, k in (("ArrowRight", 2), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowLeft", 0)):
        page.click("#large-stages button >> nth=0")  # which goes with its picture
        page.keyboard.press(key)
        until(lambda k=k: page.inner_text("#large-place") == f"{k + 1} of 3")
    page.click("#large-picture")
    assert page.is_visible("#large")
    page.mouse.click(5, 5)
    until(lambda: page.is_hidden("#large"))


def test_the_history_is_as_long_as_it_is(serve, visit):
    server = serve()
    row = server.store.find(server.client.run(until="base_16")["id"], "")
    for k in range(229):
        server.store.add_job(replace(row, id=f"old{k}", created=row.created - k - 1, state="cancelled"))
    page = visit(server.url)
    until(lambda: page.locator("#history li").count() == 50)
    until(lambda: page.keyboard.press("End") or page.locator("#history li").count() == 230)
    assert page.is_hidden("#older")
    names = page.eval_on_selector_all("#history a", "all => all.map(a => a.hash)")
    assert names == [f"#{row.id}", *(f"#old{k}" for k in range(229))]
    page.click("#history a >> nth=228")
    ends(page, "cancelled")


def test_the_history_is_not_sent_again_and_again(serve, visit):
    gate = Gate(free=3)
    server = serve(cascade=gate.cascade)
    page = visit(server.url)
    answers = []
    page.on("response", lambda answer: answers.append(answer.status) if "/v1/jobs?" in answer.url else None)
    ask(page, num=1)
    ends(page, "running")
    until(lambda: page.title() and answers.count(304) >= 2)  # events are heard during a call
    gate.open()
    ends(page, "finished")
    until(lambda: "running" not in page.inner_text("#history"))


def test_the_history_keeps_the_focus_when_jobs_come(serving: Serving, visit):
    page = visit(serving.url)
    ask(page, "red heart", 1, hold=True)
    ends(page, "held")
    page.focus("#history a")
    serving.client.run(prompts=["blue circle"])
    page.evaluate("() => { document.dispatchEvent(new Event('visibilitychange')) }")
    until(lambda: "blue circle" in page.locator("#history a").first.inner_text())
    assert "red heart" in page.evaluate("document.activeElement.innerText")


def test_a_deleted_job_is_gone(serving: Serving, visit):
    page = visit(serving.url)
    ask(page, "yellow star", 1)
    page.wait_for_selector("#delete:not([hidden])")
    job = page.url.partition("#")[2]
    page.dblclick("#delete")
    assert page.inner_text("#delete") == "Delete for good?"
    assert serving.client.get(f"/v1/jobs/{job}").status_code == 200
    delete_job(page)
    page.wait_for_selector("#empty:not([hidden])")
    assert page.is_hidden("#job")
    assert page.url.partition("#")[2] == ""
    until(lambda: page.locator(f"#history a[href='#{job}']").count() == 0)
    assert serving.client.get(f"/v1/jobs/{job}").status_code in (404, 410)


def test_a_key_that_is_held_down_deletes_nothing(serving: Serving, visit):
    page = visit(serving.url)
    ask(page, "yellow star", 1, hold=True)
    ends(page, "held")
    job = page.url.partition("#")[2]
    page.focus("#delete")
    for press in (["down"] * 60, ["press"] * 2):
        page.wait_for_selector("#delete:not(.sure)")
        for how in press:
            getattr(page.keyboard, how)("Enter")
            page.wait_for_timeout(0 if how == "press" else 20)  # from the second on the same key is one that is held
        page.keyboard.up("Enter")
        assert page.inner_text("#delete") == "Delete for good?"
        assert serving.client.get(f"/v1/jobs/{job}").status_code == 200
    page.wait_for_timeout(600)
    page.keyboard.press("Enter")
    page.wait_for_selector("#empty:not([hidden])")


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


def test_history_outlives_a_reload(serving: Serving, visit):
    page = visit(serving.url)
    ask(page, "yellow star", 2)
    ends(page, "finished")
    page.reload()
    page.click("#history a >> nth=0")
    ends(page, "finished")
    until(lambda: len(sides(page)) == 2)
    assert "yellow star" in page.inner_text("#title")


def test_two_tabs_at_once(serve, visit):
    server = serve(cascade=slowed(load(), 0.02))
    pages = [visit(server.url), visit(server.url)]
    for page, (prompt, num) in zip(pages, (("red heart", 2), ("green apple", 3)), strict=True):
        ask(page, prompt, num)
    for page, (prompt, num) in zip(pages, (("red heart", 2), ("green apple", 3)), strict=True):
        ends(page, "finished")
        assert prompt in page.inner_text("#title")
        assert page.locator(".tile").count() == num


def test_phone_width_has_no_sideways_scroll(serve, visit):
    page = visit(serve().url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    ask(page, "a caption that is so long that it does not fit into one line of a phone\nred heart", 3)
    ends(page, "finished")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ask(page, "green apple", 40)
    ends(page, "finished")
    card = page.locator("#history a", has_text="a caption").first
    until(
        lambda: page.locator(".tile").count() == 6 or card.click()
    )  # the page may still scroll to the job that has ended
    until(lambda: page.locator("#title").bounding_box()["y"] >= 0)


def test_the_picked_of_a_long_grid_are_refined_without_scrolling(serving: Serving, visit):
    page = visit(serving.url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    ask(page, num=24, hold=True)
    ends(page, "held")
    page.locator(".tile .pick").first.tap()
    box = page.locator("#refine").bounding_box()
    assert box is not None
    assert 0 <= box["y"] <= 844 - box["height"]
    page.goto(f"{serving.url}/docs")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_with_three_stages_the_buttons_are_in_sight(serving: Serving, visit):
    def three(route) -> None:
        models = route.fetch().json()
        stages = models["data"][0]["cascade"]["stages"]
        stages.append(stages[1] | {"name": "sr_256", "side": 256, "low_res": 64})
        route.fulfill(json=models)

    page = visit(serving.url, viewport={"width": 1200, "height": 640})
    page.route("**/v1/models", three)
    page.reload()
    page.wait_for_selector("#settings-sr_256-num_steps", state="attached")
    ask(page, num=8, hold=True)
    ends(page, "held")
    page.click("#again summary")
    page.click("#all")
    for button in ("#go", "#refine"):
        box = page.locator(button).bounding_box()
        assert box["y"] + box["height"] <= 640
    assert page.locator("#next").bounding_box()["height"] <= 0.46 * 640


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


def test_a_card_shows_whole_pictures(serving: Serving, visit):
    page = visit(serving.url)
    for num, sides_px in ((1, [48]), (2, [23.5] * 2), (3, [23.5] * 3)):
        job = serving.client.run(num=num, until="base_16")["id"]
        page.reload()
        card = f"#history a[href='#{job}'] img"
        until(lambda card=card, num=num: page.locator(card).count() == num)
        boxes = [page.locator(card).nth(k).bounding_box() for k in range(num)]
        assert [box["width"] for box in boxes] == [box["height"] for box in boxes] == pytest.approx(sides_px, abs=0.6)
        assert page.locator(card).first.evaluate("img => getComputedStyle(img).objectFit") == "contain"


def test_light_and_dark(serving: Serving, visit):
    shade = {}
    for scheme in ("light", "dark"):
        page = visit(serving.url, color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shade[scheme] = max(map(int, re.findall(r"\d+", colour)[:3]))
    assert shade["dark"] < 64 < 192 < shade["light"]


def test_fault57_html_in_a_prompt_stays_text(serving: Serving, visit):
    page = visit(serving.url)
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    ask(page, evil, 1)
    ends(page, "finished")
    assert evil in page.inner_text("#title")
    assert page.locator("#title *, .caption *, #history img[src=x]").count() == 0


def test_a_refusal_is_one_line(serving: Serving, visit, said):
    page = visit(serving.url)
    ask(page, "x" * 3000)
    page.wait_for_selector("#error:not([hidden])")
    assert "2,000" in page.inner_text("#error") or "2000" in page.inner_text("#error")
    page.click("#error button")
    assert page.is_hidden("#error")
    assert all("422" in line for line in said)  # the browser's own line about the answer
    said.clear()


def test_fault56_a_server_that_wants_a_key(serve, visit, said):
    server = serve(keys=Keys({"someone": "k" * 20}))
    page = visit(server.url, ready="#key-form:not([hidden])")
    main, columns = (page.locator(what).bounding_box() for what in ("main", "#columns"))
    assert main["width"] > 0.9 * columns["width"]
    assert page.is_hidden("#error")  # nobody has done anything wrong yet
    assert page.is_hidden("#sign-out")
    for key in ("wrong", "k" * 20):
        page.fill("#key", key)
        page.keyboard.press("Enter")
        page.wait_for_selector("#error:not([hidden])" if key == "wrong" else "#ask:not([hidden])")
    assert page.is_hidden("#error")
    until(lambda: page.evaluate("document.activeElement.id") == "prompt")
    ask(page, num=1)
    ends(page, "finished")
    until(lambda: sides(page) == [64])
    other = page.context.new_page()
    other.goto(server.url)
    other.wait_for_selector("#ask:not([hidden])")
    until(lambda: other.locator("#history img").count() == 1)
    other.click("#sign-out")
    for each in (other, page):
        each.wait_for_selector("#key-form:not([hidden])")
        assert each.is_hidden("#ask")
        assert each.is_hidden("#job")
        assert each.is_hidden("#sign-out")
    assert all("401" in line for line in said)
    said.clear()


def test_a_picture_that_did_not_come_is_asked_for_again(serve, visit, said):
    server = serve(keys=Keys({"someone": "k" * 20}))
    page = visit(server.url, ready="#key-form:not([hidden])")
    page.fill("#key", "k" * 20)
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask:not([hidden])")
    page.route("**/*.png", lambda route: route.fulfill(status=503, body="{}"))
    ask(page, num=1, hold=True)
    ends(page, "held")
    page.unroute("**/*.png")
    page.click(".open")
    until(lambda: page.eval_on_selector("#large-picture", "img => img.naturalWidth") == 16)
    assert all("401" in line or "503" in line for line in said)
    said.clear()
