"""The switch for uncertainty, and previews that are shown as maps of it; nothing of it where no stage can tell it."""

import pytest

from tests.cascade.unsure import fresh
from tests.serve.person import SHOWN, ends
from tests.serve.serving import Gate, Serving, until


def paint(page, num: int = 2, *, hold: bool = False) -> dict:
    """The body of the job that the form starts."""
    page.fill("#num", str(num))
    page.set_checked("#hold", hold)
    with page.expect_request(lambda request: request.method == "POST") as told:
        page.click("#go")
    return told.value.post_data_json


def sources(page) -> list[str]:
    return page.eval_on_selector_all(SHOWN, "all => all.map(img => img.src)")


def test_previews_are_switched_between_picture_and_map(serve, visit):
    gate = Gate(free=2, side=16, cascade=fresh(("sr_16",)))
    page = visit(serve(cascade=gate.cascade).url)
    assert page.is_hidden("#show-unsure")
    page.check("#unsure")
    assert paint(page)["uncertainty"] is True
    page.wait_for_selector("#show-unsure:not([hidden])")
    assert page.locator("#job").get_attribute("data-state") == "running"
    pictures = sources(page)
    page.click("#show-unsure")
    until(lambda: not set(sources(page)) & set(pictures) and all(page.locator(".side").all_inner_texts()))
    assert all(each.startswith("data:image/webp") for each in sources(page))
    assert page.locator(".side").all_inner_texts() == ["16 px, uncertainty"] * 2
    page.click("#show-unsure")
    until(lambda: sources(page) == pictures)
    page.click("#show-unsure")
    gate.open()
    ends(page, "finished")
    assert page.locator(".side").all_inner_texts() == ["16 px, uncertainty"] * 2  # the last preview's stays there
    assert page.get_attribute(".save", "href").endswith("/stages/sr_16/0.png")
    page.click("#show-unsure")
    until(lambda: all(each.endswith(".png") for each in sources(page)))
    page.reload()
    ends(page, "finished")
    assert page.is_hidden("#show-unsure")  # previews are not kept


def test_a_job_that_ends_before_the_stages_that_can_tell_it(serve, visit):
    gate = Gate(free=2, side=16, cascade=fresh(("sr_16",)))  # a page slower than the job would see none of its previews
    page = visit(serve(cascade=gate.cascade).url)
    page.check("#unsure")
    assert "uncertainty" not in paint(page, hold=True)  # which would be refused
    ends(page, "held")
    page.click("#all")
    with page.expect_request(lambda request: request.method == "POST") as told:
        page.click("#refine")
    assert told.value.post_data_json["uncertainty"] is True
    page.wait_for_selector("#show-unsure:not([hidden])")
    gate.open()
    ends(page, "finished")
    assert page.is_visible("#show-unsure")
    page.uncheck("#unsure")
    assert "uncertainty" not in paint(page)
    until(lambda: page.is_hidden("#show-unsure"))
    ends(page, "finished")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_button_has_room(serve, visit, width: int):
    gate = Gate(free=2, side=16, cascade=fresh())
    page = visit(serve(cascade=gate.cascade).url, viewport={"width": width, "height": 844})
    page.eval_on_selector("#knobs", "each => { each.open = true; }")
    page.check("#unsure")
    paint(page)
    page.wait_for_selector("#show-unsure:not([hidden])")
    gate.open()
    ends(page, "finished")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for each in ("#show-unsure", "#unsure"):
        box = page.locator(each).bounding_box()
        assert 0 <= box["x"] <= width - box["width"]


def test_where_no_stage_can_tell_it_nothing_is_said_of_it(serving: Serving, visit):
    page = visit(serving.url)
    assert page.is_visible("#settings")
    assert page.is_hidden("#unsure-field")
    assert "uncertainty" not in paint(page)
    until(lambda: page.is_hidden("#show-unsure"))
    ends(page, "finished")
