"""FAULT 59: a thousand jobs of sixteen clients against a real process; some are cancelled, some are left and found again."""

import os
import random
import re
import threading
from pathlib import Path

import pytest

from tests.serve.serving import ENDED, Child, Client, parsed, until

CLIENTS, JOBS, WARM_UP = 16, 1000, 160
GROWTH_MB = 48
ONE_STEP = {"base_16": {"num_steps": 1}, "sr_64": {"num_steps": 1}}


def one_job(client: Client, rng: random.Random) -> tuple[str, str]:
    """(id, how it ended) of a job that is watched, cancelled or left and found again; every event is told once, in order."""
    num, fate = rng.randint(1, 3), rng.choice(("watch", "watch", "watch", "cancel", "leave"))
    job = client.start(num=num, seed=rng.randrange(1 << 30), settings=ONE_STEP)["id"]
    seen: list[tuple[int, str, dict]] = []
    after = rng.randint(1, 4)
    with client.stream("GET", f"/v1/jobs/{job}/events") as answer:
        for event in parsed(answer.iter_lines()):
            seen.append(event)
            if fate != "watch" and len(seen) == after:
                break
    if fate == "cancel":
        assert client.delete(f"/v1/jobs/{job}").status_code == 204
    if seen[-1][1] not in ENDED:
        seen += client.events(job, after=seen[-1][0])
    numbers = [number for number, _, _ in seen]
    assert numbers == sorted(set(numbers)), (fate, seen)
    ends = [name for _, name, _ in seen if name in ENDED]
    assert len(ends) == 1, (fate, seen)
    assert ends[0] == seen[-1][1]
    made = [
        p["k"]
        for _, name, data in seen
        if name == "stage_finished" and data["stage"] == "sr_64"
        for p in data["pictures"]
    ]
    assert made == list(range(num)) if ends[0] == "finished" else fate == "cancel"
    return job, ends[0]


def load(server: Child, jobs: int, seed: int) -> list[tuple[str, str]]:
    """All of them, by CLIENTS at once."""
    ended: list[tuple[str, str]] = []
    wrong: list[BaseException] = []

    def run(number: int) -> None:
        rng = random.Random(seed * CLIENTS + number)
        try:
            with Client(base_url=server.url, timeout=60) as client:
                ended.extend(one_job(client, rng) for _ in range(number, jobs, CLIENTS))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
    return ended


def held(server: Child) -> tuple[int, int]:
    """(threads, descriptors) of the process."""
    proc = Path(f"/proc/{server.process.pid}")
    return len(os.listdir(proc / "task")), len(os.listdir(proc / "fd"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_fault59_soak(child):
    server: Child = child("--jobs-per-min", "1000000", "--store-mb", "4")
    ended = load(server, WARM_UP, 1)
    before_mb, before = server.rss_mb(), held(server)
    ended += load(server, JOBS, 2)
    text = server.client.get("/metrics").text
    counted = {state: int(float(num)) for state, num in re.findall(r'cascade_jobs_total{state="(\w+)"} (\S+)', text)}
    states = [state for _, state in ended]
    assert counted == {state: states.count(state) for state in set(states)}  # none lost
    assert len({job for job, _ in ended}) == len(ended) == WARM_UP + JOBS  # none doubled
    assert set(states) == {"finished", "cancelled"}
    for name in ("cascade_waiting_images", "cascade_open_jobs", "cascade_streams", "cascade_unsaved_images"):
        until(lambda name=name: f"\n{name} 0.0\n" in server.client.get("/metrics").text)
    threads, descriptors = held(server)
    print(f"RSS {before_mb:.0f} MB, after {JOBS} jobs {server.rss_mb():.0f} MB; threads {before[0]}, {threads}")
    assert server.rss_mb() - before_mb < GROWTH_MB
    assert threads <= before[0] + 8  # the pool of workers may fill up to its bound
    assert descriptors <= before[1] + 8
