"""How the page looks: on a phone, in a low window, in the large view, by day and by night."""

import re

from tests.serve.person import ask, ends
from tests.serve.serving import Serving, until


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


def test_light_and_dark(serving: Serving, visit):
    shade = {}
    for scheme in ("light", "dark"):
        page = visit(serving.url, color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shade[scheme] = max(map(int, re.findall(r"\d+", colour)[:3]))
    assert shade["dark"] < 64 < 192 < shade["light"]
