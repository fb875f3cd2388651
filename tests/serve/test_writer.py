"""What the writer makes of the engine's events, without an engine: states, milestones and what the store has of them."""

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade.events import Cancelled, Event, Failed, Finished, StageFinished, StageStarted
from cascade.request import Request
from cascade.serve.jobs.job import Job
from cascade.serve.jobs.states import ENDED, EXPIRED, NEXT, State, moved
from cascade.serve.jobs.store import SCHEMA, THERE, JobRow, Store
from cascade.serve.jobs.writer import Writer
from tests.cascade.chains import tiny

WAIT_S = 60.0


class Desk:
    """A writer with its store, and the jobs that it said have ended."""

    def __init__(self, folder: Path):
        self.ended: list[Job] = []
        self.allows = True
        self.store = Store(folder)
        self.cascade = tiny(8, 16)
        self.writer = Writer(self.store, self.ended.append, lambda images: self.allows)

    def job(self, request: Request | None = None) -> Job:
        request = request or Request()
        asked = {"index": list(request.index), "settings": {}}
        row = JobRow(
            id=f"job-{time.monotonic_ns()}", owner="me", state="queued", created=time.time(), parent="", request=asked
        )
        self.store.add_job(row)
        return Job(row, plan=self.cascade.resolve(request), write=self.writer.put)

    def tell(self, job: Job, *events: Event) -> list[tuple[str, dict[str, Any]]]:
        """Name and data of all milestones, once they are written."""
        for event in events:
            job.listen(event)
        until(lambda: all(entry.data is not None for entry in job._log))
        return [(entry.name, entry.data) for entry in job._log]

    def stored(self, job: Job) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
        """State and milestones."""
        row = self.store.find(job.id, "me")
        assert row is not None
        return row.state, [(name, data) for _, name, data in self.store.events(job.id)]


def until(is_so) -> None:
    deadline = threading.Event()
    for _ in range(round(WAIT_S / 0.01)):
        if is_so():
            return
        deadline.wait(0.01)
    raise AssertionError("it never came")


@pytest.fixture
def desk(tmp_path) -> Iterator[Desk]:
    made = Desk(tmp_path / "store")
    yield made
    made.writer.close()
    made.store.close()


@pytest.mark.parametrize(
    ("code", "message", "told"),
    [
        ("out_of_memory", "stage sr_16: it is too large", "out_of_memory"),
        ("internal", "stage sr_16: a filter's model is out of memory", "sampling_failed"),
        ("not_finite", "stage sr_16: NaN", "sampling_failed"),
        ("network_lost", "stage sr_16: lost", "sampling_failed"),
    ],
)
def test_clients_are_told_by_the_code_of_a_failure_not_by_its_message(desk, code, message, told):
    job = desk.job()
    said = ("failed", {"code": told, "message": message, "stage": "sr_16"})
    assert desk.tell(job, Failed(stage="sr_16", message=message, code=code)) == [said]
    until(lambda: desk.ended == [job])
    assert desk.stored(job) == ("failed", [said])


def test_what_no_stream_knows_is_not_told(desk):
    class Estimated(Event):
        pass

    assert desk.tell(desk.job(), STARTED, Estimated(), DONE) == [
        ("stage_started", {"stage": "base_8", "index": [0], "nfe": 2}),
        ("finished", {"num": 1, "nfe": 4}),
    ]


STARTED = StageStarted(stage="base_8", index=(0,), nfe=2)
MADE = StageFinished(stage="base_8", index=(0,), images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), last=False)
DONE = Finished(num=1, nfe=4)
LOST = Failed(stage="base_8", message="lost", code="network_lost")
NO_SPACE = {"code": "storage_failed", "message": "pictures cannot be stored (OperationalError)"}


class TestStates:
    @pytest.mark.parametrize(
        ("request_", "events", "state", "data"),
        [
            (Request(), (STARTED, DONE), "finished", {"num": 1, "nfe": 4}),
            (Request(last="sr_16"), (STARTED, DONE), "finished", {"num": 1, "nfe": 4}),
            (Request(last="base_8"), (STARTED, DONE), "held", {"stage": "base_8"}),
            (Request(), (STARTED, LOST), "failed", {"code": "sampling_failed", "message": "lost", "stage": "base_8"}),
            (Request(), (STARTED, Cancelled()), "cancelled", {}),
            (Request(), (Cancelled(),), "cancelled", {}),
        ],
    )
    def test_what_the_engine_says_moves_a_job_on(self, desk, request_, events, state, data):
        job = desk.job(request_)
        assert (job.state, job.has_ended) == ("queued", False)
        for event in events[:-1]:
            desk.tell(job, event)
            assert (job.state, job.has_ended, desk.stored(job)[0]) == ("running", False, "running")
        told = desk.tell(job, events[-1])
        until(lambda: desk.ended == [job])
        assert (job.state, job.has_ended) == (state, True)
        assert told[-1] == (state, data)
        assert desk.stored(job) == (state, told)
        assert (job.failure is None) == (state != "failed")

    @pytest.mark.parametrize("last", [DONE, LOST, Cancelled()])
    def test_a_job_that_broke_fails_for_the_first_reason_however_it_ends(self, desk, last):
        job = desk.job()
        desk.allows = False
        told = desk.tell(job, STARTED, MADE)
        assert (job.state, told[-1]) == ("running", ("stage_finished", {}))
        assert job.fail("later", "another reason")["code"] == "refused_content"
        desk.allows = True
        assert desk.tell(job, MADE, last)[-1] == ("failed", job.failure)
        until(lambda: desk.ended == [job])
        state, events = desk.stored(job)
        assert (state, [name for name, _ in events]) == ("failed", ["stage_started", "failed"])
        assert events[-1][1]["code"] == "refused_content"

    @pytest.mark.parametrize("last", [DONE, LOST, Cancelled()])
    def test_an_end_that_cannot_be_stored_was_never_another_one(self, desk, last, monkeypatch):
        """Nobody sees `finished` before the store has it; the failure is stored when the disk lets it."""
        job = desk.job()
        desk.tell(job, STARTED)
        seen, add_event = [], desk.store.add_event

        def full(*what, state):
            seen.append((job.state, job.has_ended))
            if len(seen) < 2:
                raise sqlite3.OperationalError("the disk fails")
            add_event(*what, state=state)

        monkeypatch.setattr(desk.store, "add_event", full)
        assert desk.tell(job, last)[-1] == ("failed", NO_SPACE)
        until(lambda: desk.ended == [job])
        assert seen == [("running", False), ("failed", True)]
        assert (job.state, job.failure) == ("failed", NO_SPACE)
        assert desk.stored(job)[0] == "failed"
        assert desk.stored(job)[1][-1] == ("failed", NO_SPACE)

    def test_a_job_that_ended_is_replayed_as_it_ended(self, desk):
        job = desk.job()
        desk.tell(job, STARTED, DONE)
        until(lambda: desk.ended == [job])
        row = desk.store.find(job.id, "me")
        again = Job.replay(row, desk.store.events(job.id))
        assert (again.state, again.has_ended) == ("finished", True)
        lost = Job.replay(row, desk.store.events(job.id)[:-1])
        assert (lost.state, lost.has_ended) == ("failed", True)
        assert lost.since(0)[-1].data["code"] == "lost"

    @pytest.mark.parametrize(("before", "after"), [("finished", "failed"), ("queued", "finished"), (EXPIRED, "queued")])
    def test_there_is_no_way_back(self, before: State, after: State):
        with pytest.raises(AssertionError, match=f"a job that is {before} becomes {after}"):
            moved(before, after)

    def test_the_store_s_queries_know_the_same_states(self):
        words = set(re.findall(r"'(\w+)'", THERE))
        assert words == {*ENDED, EXPIRED}
        assert set(re.findall(r"'(\w+)'", SCHEMA)) == {EXPIRED}
        assert set(NEXT) == {"queued", "running", *words}
