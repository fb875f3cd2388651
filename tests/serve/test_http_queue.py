"""A full queue, too many jobs, cancelling and refining at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from PIL import Image

from cascade.serve.http.limits import Limits
from tests.serve.serving import FEW, Client, Gate, Serving, load, slowed, until
from tests.serve.streams import CALL_S, LONG


def test_a_full_queue_refuses_with_429(slow: Serving):
    jobs = [slow.client.start(num=4, settings=LONG)["id"] for _ in range(2)]
    answer = slow.client.post("/v1/jobs", json={"prompts": ["x"]})
    assert answer.status_code == 429
    assert slow.client.error(answer) == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1
    assert slow.client.get("/readyz").status_code == 200
    assert len(slow.client.get("/v1/jobs").json()["jobs"]) == 2  # nothing is left of the refused one
    for job in jobs:
        slow.client.delete(f"/v1/jobs/{job}")
        assert slow.client.finish(job) == "cancelled"
    assert slow.client.post("/v1/jobs", json={"prompts": ["x"]}).status_code == 202


def test_open_jobs_of_one_key_are_bounded(serve):
    serving = serve(cascade=slowed(load(), CALL_S), limits=Limits(open_jobs=2))
    for _ in range(2):
        serving.client.start(settings=LONG)
    answer = serving.client.post("/v1/jobs", json={"prompts": ["x"]})
    assert (answer.status_code, serving.client.error(answer)) == (429, "too_many_jobs")


def test_cancelling_at_any_moment_leaves_a_working_engine(serving: Serving):
    """At every moment of a job's life; afterwards nothing waits and the engine still serves."""
    client = serving.client
    for k in range(12):
        job = client.start()
        time.sleep(0.01 * k)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _, url=job["url"]: client.delete(url).status_code, range(4)))
        assert answers == [204] * 4
        assert client.finish(job["id"]) in ("cancelled", "finished")
        last = client.events(job["id"])[-1]
        assert last[1] == client.get(job["url"]).json()["state"]
    until(lambda: serving.engine.waiting == 0)
    assert client.run()["state"] == "finished"


def test_unknown_jobs_are_not_found(client: Client):
    for method, path in (("DELETE", ""), ("GET", ""), ("GET", "/events"), ("POST", "/refine")):
        answer = client.request(method, f"/v1/jobs/unknown{path}", json={} if method == "POST" else None)
        assert (answer.status_code, client.error(answer)) == (404, "not_found")


def test_cancel_frees_its_place_within_one_call(serve):
    gate = Gate(free=2)
    serving = serve(cascade=gate.cascade)
    job = serving.client.start(num=8, settings=LONG)
    until(lambda: gate.calls == 3)
    serving.client.delete(job["url"])
    gate.open()
    until(lambda: serving.engine.waiting == 0)
    assert gate.calls == 3


def test_two_picks_at_once_are_two_jobs(client: Client):
    held = client.run(num=4, until="base_16")
    body = {"from": "base_16", "pick": [2]}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post(f"/v1/jobs/{held['id']}/refine", json=body), range(4)))
    jobs = [answer.json()["id"] for answer in answers]
    assert len(set(jobs)) == 4
    urls = []
    for job in jobs:
        assert client.finish(job) == "finished"
        urls.append(client.get(f"/v1/jobs/{job}").json()["stages"][0]["urls"][0])
    first, *others = (np.asarray(Image.open(BytesIO(client.get(url).content))).astype(int) for url in urls)
    for other in others:  # computed in calls of other sizes, which round differently
        assert abs(other - first).max() <= 1


def test_sixty_short_jobs_leave_nothing_behind(serving: Serving):
    """From four clients at once, a third cancelled."""
    client = serving.client
    before = threading.active_count()
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda k: client.start(seed=k, settings=FEW), range(60)))
        for job in jobs[::3]:
            client.delete(job["url"])
        states = [client.finish(job["id"]) for job in jobs]
    assert set(states) <= {"finished", "cancelled"}
    until(lambda: serving.engine.waiting == 0)
    until(lambda: not serving.service._open)
    assert threading.active_count() <= before + 45  # worker threads of the event loop, at most 40
