"""The page in a real browser against a real server: what a person does, and that nothing is said in the console meanwhile."""

from cascade.serve.http.keys import Keys
from tests.serve.person import ask, ends, sides
from tests.serve.serving import Serving, load, slowed, until


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


def test_two_tabs_at_once(serve, visit):
    server = serve(cascade=slowed(load(), 0.02))
    pages = [visit(server.url), visit(server.url)]
    for page, (prompt, num) in zip(pages, (("red heart", 2), ("green apple", 3)), strict=True):
        ask(page, prompt, num)
    for page, (prompt, num) in zip(pages, (("red heart", 2), ("green apple", 3)), strict=True):
        ends(page, "finished")
        assert prompt in page.inner_text("#title")
        assert page.locator(".tile").count() == num


def test_html_in_a_prompt_stays_text(serving: Serving, visit):
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


def test_a_server_that_wants_a_key(serve, visit, said):
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
