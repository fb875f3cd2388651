"""The page in a browser: by keys, by touch, by day and by night."""

import json
import re
import time

import pytest

READY = "#choices button:not(:disabled)"


@pytest.fixture
def visit(browser):
    """visit(address) is a page in a context of its own; what it says in its console is an error of the test."""
    contexts, said = [], []

    def open_(address, *, voter="ann", **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        if voter:
            page.fill("#voter", voter)
            page.keyboard.press("Enter")
            page.wait_for_selector(READY)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def counts(page, num):
    """Waits until so many votes are told, and the next pictures, if any, can be voted on."""
    deadline = time.monotonic() + 60
    while not page.inner_text("#count").startswith(f"{num} of"):
        assert time.monotonic() < deadline, page.inner_text("body")
        time.sleep(0.01)
    page.wait_for_selector(f"{READY}, #end:not([hidden])")


def written(folders):
    return [json.loads(line) for line in (folders / "votes.jsonl").read_text().splitlines()[1:]]


def test_a_vote_by_keys_with_an_undo(start, visit, folders):
    voting = start()
    page = visit(voting.address)
    for num, key in enumerate(("ArrowLeft", "1", "ArrowRight", "2", "ArrowDown"), 1):
        page.keyboard.press(key)
        counts(page, num)
    before = page.eval_on_selector_all("#pictures img", "all => all.map(img => img.src)")
    page.keyboard.press("0")
    page.wait_for_selector("#end:not([hidden])")
    page.keyboard.press("u")
    counts(page, 5)
    assert page.eval_on_selector_all("#pictures img", "all => all.map(img => img.src)") == before
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#end:not([hidden])")
    lines = written(folders)
    assert [each.get("choice", "undo") for each in lines] == [
        "left",
        "left",
        "right",
        "right",
        "tie",
        "tie",
        "undo",
        "left",
    ]
    assert {each["voter"] for each in lines} == {"ann"}
    assert voting.end()[0] == "6 votes on 6 of 6 ballots"


def test_a_click_on_a_picture_chooses_it_and_keys_held_down_count_once(start, visit, folders):
    page = visit(start().address)
    page.click("#pictures img >> nth=1")
    counts(page, 1)
    page.keyboard.down("ArrowLeft")
    page.keyboard.down("ArrowLeft")  # as a key that is held repeats
    counts(page, 2)
    time.sleep(0.3)
    assert [each["choice"] for each in written(folders)] == ["right", "left"]


def test_two_voters_at_two_browsers_see_their_own_order(start, visit):
    voting = start()
    one, other = visit(voting.address), visit(voting.address, voter="bob")
    one.keyboard.press("1")
    counts(one, 1)
    counts(other, 0)
    other.keyboard.press("2")
    counts(other, 1)
    one.keyboard.press("1")
    counts(one, 2)
    lines = voting.end()
    assert lines[0].startswith("3 votes on")
    assert any(line.startswith("  by bob: ") for line in lines)


def test_a_name_on_the_command_line_is_not_asked_for(start, visit, folders):
    page = visit(start("--voter", "Ann from next door").address, voter="")
    page.wait_for_selector(READY)
    page.keyboard.press("1")
    counts(page, 1)
    assert written(folders)[0]["voter"] == "Ann from next door"


def test_a_page_that_is_loaded_again_goes_on(start, visit):
    page = visit(start().address)
    page.keyboard.press("1")
    counts(page, 1)
    page.reload()
    counts(page, 1)


@pytest.mark.parametrize(
    ("ask", "question", "words"),
    [
        ("real", "Real or generated?", ["Real", "Not sure", "Generated"]),
        ("caption", "Does it show the caption?", ["Yes", "Partly", "No"]),
    ],
)
def test_the_questions_about_one_picture(start, visit, ask, question, words):
    voting = start("--ask", ask)
    page = visit(voting.address)
    assert page.inner_text("#question") == question
    assert page.eval_on_selector_all("#choices button", "all => all.map(each => each.textContent)") == words
    assert page.locator("#pictures img").count() == 1
    assert page.is_visible("#caption") == (ask == "caption")
    page.keyboard.press("ArrowDown")
    counts(page, 1)
    assert voting.end()[0] == "1 votes on 1 of 12 ballots"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_all_is_in_sight(shared, visit, scheme, width):
    phone = {"is_mobile": True, "has_touch": True} if width == 390 else {}
    page = visit(
        shared.address,
        voter=f"{scheme} {width}",
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        **phone,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for button in page.locator("#choices button").all():
        box = button.bounding_box()
        assert box["height"] >= 44
        assert box["y"] + box["height"] <= 800
    sides = [each.bounding_box() for each in page.locator("#pictures img").all()]
    assert sides[0]["y"] == sides[1]["y"]
    assert min(each["width"] for each in sides) > (170 if width == 390 else 400)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = max(map(int, re.findall(r"\d+", colour)[:3]))
    assert shade < 64 if scheme == "dark" else shade > 192
    paper = page.evaluate("getComputedStyle(document.querySelector('#pictures img')).backgroundColor")
    assert paper == "rgb(255, 255, 255)"  # black ink is seen by night, and a transparent side looks as one on white
    if phone:
        page.locator("#choices button").last.tap()
        counts(page, 1)


def test_undo_is_in_sight_in_a_low_window(start, visit):
    page = visit(start().address, viewport={"width": 620, "height": 520})
    page.keyboard.press("1")
    counts(page, 1)
    box = page.locator("#undo").bounding_box()
    assert box["y"] + box["height"] <= 520


def test_without_its_token_the_page_says_what_to_open(shared, browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto(shared.url)
    page.wait_for_selector("#error:not([hidden])")
    assert "open the address that the terminal shows" in page.inner_text("#error")
    assert page.is_hidden("#name")
    context.close()


def test_when_the_vote_was_ended_the_page_says_so(start, browser):
    voting = start()
    context = browser.new_context()
    page = context.new_page()
    page.goto(voting.address)
    page.fill("#voter", "ann")
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)
    voting.end()
    page.keyboard.press("1")
    page.wait_for_selector("#error:not([hidden])")
    assert "ended in the terminal" in page.inner_text("#error")
    context.close()
