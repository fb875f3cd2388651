"""A job while it runs: its pictures sharpen, the status and the window tell how far it is, others may be shown meanwhile."""

import json
import re
import time

from cascade.serve.http.limits import Limits
from tests.serve.person import EVENTS, SHOWN, ask, ends, sides, states
from tests.serve.serving import Gate, load, slowed, until


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
