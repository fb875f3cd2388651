"""The history: all jobs of before, read in parts, kept up to date, and deleted."""

from dataclasses import replace

import pytest

from tests.serve.person import ask, delete_job, ends, sides
from tests.serve.serving import Gate, Serving, until


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


def test_history_outlives_a_reload(serving: Serving, visit):
    page = visit(serving.url)
    ask(page, "yellow star", 2)
    ends(page, "finished")
    page.reload()
    page.click("#history a >> nth=0")
    ends(page, "finished")
    until(lambda: len(sides(page)) == 2)
    assert "yellow star" in page.inner_text("#title")


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
