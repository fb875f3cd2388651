"""What the page leaves to the browser: connections, caches, paper."""

import pytest

from cascade.serve.http.keys import Keys
from tests.serve.person import SHOWN, ask, delete_job, ends, states
from tests.serve.serving import Gate, Serving, until

FETCH = "url => fetch(url, {cache: 'force-cache'}).then(answer => answer.status)"


@pytest.mark.matrix
def test_two_tabs_with_six_running_jobs_do_not_freeze(serve, visit):
    gate = Gate(free=8)
    server = serve(cascade=gate.cascade)
    one = visit(server.url)
    other = one.context.new_page()
    other.goto(server.url)
    other.wait_for_selector("#ask:not([hidden])")
    for page, prompts in ((one, ("one", "two", "three", "four")), (other, ("five", "six"))):
        page.set_default_timeout(30_000)
        for prompt in prompts:
            ask(page, prompt, 1)
            until(lambda page=page, prompt=prompt: page.inner_text("#title") == prompt)
    for page in (one, other):
        asked = "() => Promise.race([fetch('healthz').then(answer => answer.text()), new Promise(done => setTimeout(done, 20000))])"
        assert page.evaluate(asked) == "ok"
        page.locator("#history a", has_text="three").click()
        until(lambda page=page: page.inner_text("#title") == "three")
    until(lambda: server.service.streams.num == 2)
    gate.open()
    until(lambda: states(server) == ["finished"] * 6, 120)
    for page in (one, other):
        ends(page, "finished")


def sign_in(page) -> None:
    page.fill("#key", "k" * 20)
    page.keyboard.press("Enter")
    page.wait_for_selector("#ask:not([hidden])")


@pytest.mark.parametrize("how", ["signed out", "deleted", "deleted elsewhere"])
def test_pictures_are_gone_from_the_browser_too(serve, visit, said, how: str):
    server = serve(keys=Keys({"someone": "k" * 20}))
    page = visit(server.url, ready="#key-form:not([hidden])")
    sign_in(page)
    ask(page, num=1)
    ends(page, "finished")
    until(lambda: page.locator(SHOWN).count() == 1)
    job = page.url.partition("#")[2]
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(SHOWN)
    url = f"v1/jobs/{job}/stages/sr_64/0.png"
    with_key = f"fetch('{url}', {{cache: 'force-cache', headers: {{Authorization: 'Bearer {'k' * 20}'}}}})"
    assert page.evaluate(f"() => {with_key}.then(answer => answer.status)") == 200
    if how == "signed out":
        other.click("#sign-out")
        for each in (page, other):
            each.wait_for_selector("#key-form:not([hidden])")
            assert each.evaluate(FETCH, url) == 401
    else:
        acts = page if how == "deleted" else other
        delete_job(acts)
        for each in (page, other):
            each.wait_for_selector("#empty:not([hidden])")
            assert each.locator(SHOWN).count() == 0
            assert each.evaluate(f"() => {with_key}.then(answer => answer.status)") == 410
            until(lambda each=each: each.locator("#history li").count() == 0)
    assert all("401" in line or "410" in line for line in said)
    said.clear()


def test_without_keys_a_deleted_picture_is_gone_too(serving: Serving, visit, said):
    page = visit(serving.url)
    ask(page, num=1)
    ends(page, "finished")
    until(lambda: page.locator(SHOWN).count() == 1)
    url = page.get_attribute(SHOWN, "src")
    delete_job(page)
    page.wait_for_selector("#empty:not([hidden])")
    assert page.evaluate(FETCH, url) == 410
    assert all("410" in line for line in said)
    said.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_there_are_the_pictures_and_what_was_asked(serving: Serving, visit, scheme: str):
    page = visit(serving.url, color_scheme=scheme)
    ask(page, "red heart", 3)
    ends(page, "finished")
    until(lambda: page.locator(SHOWN).count() == 3)
    page.emulate_media(media="print", color_scheme=scheme)
    for hidden in ("header", "#ask", "#past", "#next", ".save >> nth=0", "#reuse", "#rail"):
        assert page.is_hidden(hidden), hidden
    for visible in ("#title", "#meta", f"{SHOWN} >> nth=2"):
        assert page.is_visible(visible), visible
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.locator("#grid").bounding_box()["y"] < 200
    page.emulate_media(media="screen")
    page.click(".open >> nth=1")
    page.emulate_media(media="print")
    assert page.is_visible("#large-picture")
    assert page.is_hidden("#grid")
