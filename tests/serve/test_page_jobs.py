"""Jobs as the page keeps them apart: one click is one job, each has its address, its picks, its card, and pictures of its own."""

from tests.serve.person import SHOWN, ask, delete_job, ends, picture, sides, states
from tests.serve.serving import Gate, Serving, until
from tests.serve.test_page_exact import newest


def hold_back(page, path: str, method: str = "POST") -> list:
    """The first call waits in the list that this returns, until it is let go on; others are counted there."""
    held: list = []

    def take(route) -> None:
        if route.request.method == method:
            held.append(route)
        if route.request.method != method or len(held) > 1:
            route.continue_()

    page.route(path, take)
    return held


def test_one_click_is_one_job(serving: Serving, visit, said):
    page = visit(serving.url)
    before = len(states(serving))
    ask(page, num=2, hold=True)
    ends(page, "held")
    held = hold_back(page, "**/refine")
    page.click("#all")
    page.click("#refine")
    until(lambda: page.title() and held)
    page.evaluate("() => { for (let i = 0; i < 3; i++) document.querySelector('#refine').click() }")
    page.keyboard.press("Enter")
    assert page.get_attribute("#refine", "aria-disabled") == "true"
    assert page.evaluate("document.activeElement.id") == "refine"
    held[0].abort()
    page.wait_for_selector("#error:not([hidden])")
    page.dblclick("#refine")
    ends(page, "finished")
    assert len(held) == 2
    page.dblclick("#go")
    ends(page, "held")
    held = hold_back(page, "**/v1/jobs")
    page.dblclick("#go")
    page.focus("#prompt")
    for _ in range(3):
        page.keyboard.press("Enter")
    until(lambda: page.title() and held)
    held[0].continue_()
    until(lambda: len(states(serving)) == before + 4)
    until(lambda: page.get_attribute("#go", "aria-disabled") is None)
    assert len(held) == 1
    assert len(states(serving)) == before + 4
    assert all("ERR_FAILED" in line for line in said)  # the call that was cut
    said.clear()


def test_what_was_refined_from_a_deleted_job_has_whole_pictures(serve, visit, said):
    gate = Gate(free=0, side=64)
    server = serve(cascade=gate.cascade)
    page = visit(server.url)
    ask(page, num=2, hold=True)
    ends(page, "held")
    held = page.url.partition("#")[2]
    page.click("#all")
    page.click("#refine")
    ends(page, "running")
    other = page.context.new_page()
    other.set_default_timeout(60_000)
    other.goto(f"{server.url}#{held}")
    other.wait_for_selector("#delete:not([hidden])")
    delete_job(other)
    other.wait_for_selector("#empty:not([hidden])")
    until(lambda: page.is_hidden("#parent"))
    gate.open()
    ends(page, "finished")
    until(lambda: sides(page) == [64, 64])
    page.click(".open >> nth=0")
    assert page.locator("#large-stages button").all_inner_texts() == ["64 px"]
    page.keyboard.press("Escape")
    assert page.is_hidden("#next")
    shown = "all => all.every(img => img.complete && img.naturalWidth)"
    assert page.eval_on_selector_all(f"{SHOWN}, #history img", shown)
    assert all("410" in line for line in said)  # about the deleted job itself
    said.clear()


def test_picks_and_settings_of_a_job_are_kept_while_others_are_shown(serving: Serving, visit):
    page = visit(serving.url)
    moved = {"num_steps": "9", "aug_sigma": "0.37"}
    addresses = []
    for hold in (True, False):
        page.set_checked("#hold", hold)
        ask(page, num=3)
        ends(page, "held" if hold else "finished")
        until(lambda: len(sides(page)) == 3)
        addresses.append(page.url)
        page.click(".pick >> nth=1")
        for name, value in moved.items():
            page.fill(f"#next-settings-sr_64-{name}-value", value)
    for address in addresses:
        page.goto(address)
        page.wait_for_selector(f"#history a[href='#{address.partition('#')[2]}'][aria-current]")
        until(lambda: page.locator("#grid [aria-pressed=true]").count() == 1)
        assert page.get_attribute(".pick >> nth=1", "aria-pressed") == "true"
        assert {name: page.input_value(f"#next-settings-sr_64-{name}-value") for name in moved} == moved
        assert page.is_visible("#next-settings")
    page.click("#next-defaults")
    for place in ("#settings", "#next-settings"):
        page.fill(f"{place}-sr_64-num_steps-value", "33")
        page.select_option(f"{place}-sr_64-sampler", "euler")
        page.click("#defaults" if place == "#settings" else "#next-defaults")
        model = serving.client.get("/v1/models").json()["data"][0]["cascade"]["stages"][1]["settings"]
        for suffix in ("-value", ""):
            assert float(page.input_value(f"{place}-sr_64-num_steps{suffix}")) == model["num_steps"]
        assert page.input_value(f"{place}-sr_64-sampler") == model["sampler"]
    page.go_back()
    page.go_forward()
    until(lambda: page.input_value("#next-settings-sr_64-aug_sigma-value") == str(model["aug_sigma"]))


def test_an_upscaled_picture_is_used_again(serving: Serving, visit):
    page = visit(serving.url)
    page.set_input_files("#file", picture("png"))
    page.wait_for_selector("#unfile:not([hidden])")
    told = page.inner_text("#file-name")
    page.fill("#settings-sr_64-num_steps-value", "3")
    ask(page, "leaf", 1)
    ends(page, "finished")
    page.click("#unfile")
    assert page.inner_text("#file-name").startswith("Drop a picture")
    page.click("#reuse")
    assert page.inner_text("#file-name") == told
    before = newest(serving.client)
    page.click("#go")
    until(lambda: newest(serving.client)["id"] != before["id"])
    again = newest(serving.client)
    assert [again[key] for key in ("seed", "settings", "prompts")] == [
        before[key] for key in ("seed", "settings", "prompts")
    ]
    until(lambda: newest(serving.client)["state"] == "finished")
    pictures = [serving.client.get(job["stages"][0]["urls"][0]).content for job in (before, newest(serving.client))]
    assert pictures[0] == pictures[1]
    page.wait_for_selector(f"#history a[href='#{again['id']}'][aria-current]")
    page.reload()
    ends(page, "finished")
    page.click("#reuse")
    assert page.inner_text("#file-name") == "The picture is not kept: choose it once more"
    assert page.is_hidden("#settings-base_16-num_steps")
    page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error").startswith("Choose the picture to upscale once more, or leave it out")
    assert newest(serving.client)["id"] == again["id"]
    page.click("#unfile")
    assert page.inner_text("#go") == "Paint"


def test_the_large_view_counts_from_one_and_goes_on_by_touch(serving: Serving, visit):
    page = visit(serving.url, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    ask(page, num=3, hold=True)
    ends(page, "held")
    until(lambda: len(sides(page)) == 3)
    assert page.get_attribute(".pick >> nth=0", "aria-label") == "Picture 1 of 3, 16 px"
    page.tap(".open >> nth=1")
    place = page.locator("#large-place")
    until(lambda: place.inner_text() == "2 of 3")
    sources = {page.get_attribute("#large-picture", "src")}
    page.tap("#large-on")
    until(lambda: place.inner_text() == "3 of 3")
    sources.add(page.get_attribute("#large-picture", "src"))
    assert page.get_attribute("#large-on", "aria-disabled") == "true"
    for at in (2, 1):
        page.tap("#large-back")
        until(lambda at=at: place.inner_text() == f"{at} of 3")
    sources.add(page.get_attribute("#large-picture", "src"))
    assert page.get_attribute("#large-back", "aria-disabled") == "true"
    assert len(sources) == 3
    for button in ("#large-back", "#large-on", "#large-close"):
        box = page.locator(button).bounding_box()
        assert box["x"] >= 0, button
        assert box["x"] + box["width"] <= 390, button
        assert min(box["width"], box["height"]) >= 36, button
    page.go_back()
    until(lambda: page.is_hidden("#large"))


def test_a_job_has_its_address_and_its_card(serving: Serving, visit, said):
    page = visit(serving.url)
    addresses = [page.url]
    for seed in (11, 12):
        page.fill("#seed", str(seed))
        ask(page, num=1, hold=True)
        until(lambda seed=seed: f"seed {seed}" in page.inner_text("#meta"))
        ends(page, "held")
        addresses.append(page.url)
    assert len(set(addresses)) == 3
    page.go_back()
    until(lambda: "seed 11" in page.inner_text("#meta"))
    page.go_back()
    page.wait_for_selector("#empty:not([hidden])")
    assert page.is_hidden("#job")
    page.go_forward()
    page.go_forward()
    until(lambda: page.is_visible("#job") and "seed 12" in page.inner_text("#meta"))
    page.evaluate("location.hash = 'nosuch'")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error").startswith("There is no job #nosuch here")
    assert page.url == addresses[2]
    assert "seed 12" in page.inner_text("#meta")
    page.goto(f"{serving.url}/?fresh#nosuch")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error").startswith("There is no job #nosuch here")
    assert page.url.endswith("/?fresh") or page.url.endswith("/")
    cards = page.locator("#history a")
    until(lambda: cards.count() >= 2)
    assert ["seed 12" in cards.nth(0).inner_text(), "seed 11" in cards.nth(1).inner_text()] == [True, True]
    assert "1 picture · " in cards.nth(0).inner_text()
    assert all("404" in line for line in said)
    said.clear()


def test_two_quick_steps_back_end_where_the_address_is(serving: Serving, visit):
    page = visit(serving.url)
    for seed in (21, 22):
        page.fill("#seed", str(seed))
        ask(page, num=1, hold=True)
        until(lambda seed=seed: f"seed {seed}" in page.inner_text("#meta"))
        ends(page, "held")
    address, held = page.url, hold_back(page, "**/v1/jobs/*", "GET")
    page.go_back()
    until(lambda: page.title() and held)
    page.go_forward()
    until(lambda: page.url == address)
    with page.expect_response("**/v1/jobs/*"):
        held[0].continue_()
    until(lambda: page.evaluate("new Promise(done => setTimeout(() => done(true), 100))"))
    assert page.url == address
    assert "seed 22" in page.inner_text("#meta")
