"""A key that stops being valid while its page is open: what stays for whoever signs in next."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cascade.serve.http.keys import Keys
from tests.serve.person import EVENTS, SHOWN, ask, ends, picture
from tests.serve.serving import Gate, Serving, until

ALICE, BOB = "a" * 20, "b" * 20
MOVE = "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})); }"


class Book:
    """The file of keys, and the server that reads it again."""

    def __init__(self, serve: Callable[..., Serving], folder: Path, **options: object):
        self.path = folder / "keys"
        self.write(alice=ALICE, bob=BOB)
        self.server = serve(keys=Keys.read(self.path), **options)

    def write(self, **keys: str) -> None:
        self.path.write_text("".join(f"{name}: {key}\n" for name, key in keys.items()))

    def has(self, key: str, status: int) -> None:
        """Waits until a request with this key has this answer."""
        headers = {"Authorization": f"Bearer {key}"}
        until(lambda: self.server.client.get("/v1/jobs", headers=headers).status_code == status)


@pytest.fixture
def visit_as(visit, said):
    """visit_as(url) is a page that Alice is signed in to; what the console says of 401 is no fault."""

    def open_(url: str):
        page = visit(url, ready="#key-form:not([hidden])")
        enter(page, ALICE)
        page.wait_for_selector("#ask:not([hidden])")
        return page

    yield open_
    said[:] = [line for line in said if "401" not in line]


def enter(page, key: str) -> None:
    page.fill("#key", key)
    page.keyboard.press("Enter")


def expelled(book: Book, page) -> None:
    """Alice's key stops being valid, and the page learns of it."""
    book.write(bob=BOB)
    book.has(ALICE, 401)
    page.click("#go")
    page.wait_for_selector("#key-form:not([hidden])")
    assert page.inner_text("#error") == "This key is not valid"


def filled(page) -> None:
    page.fill("#prompt", "a secret\nof two lines")
    page.fill("#num", "3")
    page.fill("#seed", "12345")
    page.eval_on_selector("#settings-sr_64-aug_sigma", MOVE, "0.31")
    page.set_input_files("#file", picture("png"))
    page.wait_for_selector("#unfile:not([hidden])")


def form(page) -> list[object]:
    """All that the form shows."""
    fields = [page.input_value(f"#{name}") for name in ("prompt", "num", "seed", "settings-sr_64-aug_sigma-value")]
    hidden = [page.is_hidden(what) for what in ("#unfile", "#settings-base_16-num_steps", "#settings-sr_64-num_steps")]
    return [*fields, *hidden, page.inner_text("#file-name"), page.inner_text("#go")]


@pytest.mark.parametrize("how", ["expelled", "signed out"])
def test_whoever_has_another_key_sees_nothing_of_before(serve, visit_as, tmp_path, how: str):
    book = Book(serve, tmp_path)
    page = visit_as(book.server.url)
    fresh = form(page)
    ask(page, "red heart", 1)
    ends(page, "finished")
    until(lambda: page.locator("#history img").count() == 1)
    page.click(".open")
    page.wait_for_selector("#large[open]")
    page.keyboard.press("Escape")
    filled(page)
    if how == "expelled":
        expelled(book, page)
        with page.expect_response("**/v1/models"):
            enter(page, "c" * 20)
        assert page.input_value("#prompt")  # it may have been a slip
    else:
        page.click("#sign-out")
        page.wait_for_selector("#key-form:not([hidden])")
    enter(page, BOB)
    page.wait_for_selector("#key-form", state="hidden")
    page.wait_for_selector("#columns:has(#ask:not([hidden])) #empty:not([hidden])")
    assert page.evaluate("location.hash") == ""
    assert page.is_hidden("#job")
    assert page.is_hidden("#error")
    assert page.locator("#grid *, #history *, #large-stages *").count() == 0
    assert page.get_attribute("#large-picture", "src") is None
    assert [*form(page)[:2], *form(page)[3:]] == [*fresh[:2], *fresh[3:]]
    assert page.input_value("#seed") != "12345"
    ask(page, num=1, hold=True)
    ends(page, "held")


def test_with_the_same_key_it_goes_on_as_it_was(serve, visit_as, tmp_path):
    book = Book(serve, tmp_path)
    page = visit_as(book.server.url)
    ask(page, num=2, hold=True)
    ends(page, "held")
    until(lambda: page.locator(SHOWN).count() == 2)
    page.click(".pick >> nth=1")
    page.eval_on_selector("#next-settings-sr_64-aug_sigma", MOVE, "0.22")
    filled(page)
    before = form(page)
    expelled(book, page)
    book.write(alice=ALICE)
    book.has(ALICE, 200)
    enter(page, ALICE)
    page.wait_for_selector("#key-form", state="hidden")
    until(lambda: page.evaluate("document.activeElement.id") == "prompt")
    assert form(page) == before
    assert page.is_hidden("#error")
    assert page.input_value("#next-settings-sr_64-aug_sigma-value") == "0.22"
    assert page.locator("#grid [aria-pressed=true]").count() == 1
    page.click("#refine")
    ends(page, "finished")


def test_what_is_not_followed_any_more_does_not_seem_to_run(serve, visit_as, tmp_path):
    gate = Gate(free=3)
    book = Book(serve, tmp_path, cascade=gate.cascade)
    page = visit_as(book.server.url)
    page.route(EVENTS, lambda route: route.fulfill(content_type="text/event-stream", body=""))
    ask(page, num=1)
    until(lambda: page.inner_text("#status") == "Connection lost; trying again")
    book.write(bob=BOB)
    book.has(ALICE, 401)
    page.unroute(EVENTS)
    ends(page, "lost")
    assert page.inner_text("#status") == "Not followed any more"
    assert page.is_hidden("#cancel")
    book.write(alice=ALICE)
    book.has(ALICE, 200)
    enter(page, ALICE)
    ends(page, "running")
    gate.open()
    ends(page, "finished")
    assert page.inner_text("#status") == "Done"
    assert page.is_hidden("#error")
