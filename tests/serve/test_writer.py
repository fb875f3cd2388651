"""What the writer makes of the engine's events, without an engine: states, milestones and what the store has of them."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cascade.events import Event, Failed
from cascade.request import Request
from cascade.serve.jobs import Job
from cascade.serve.store import JobRow, Store
from cascade.serve.writer import Writer
from tests.cascade.chains import tiny

WAIT_S = 60.0


class Desk:
    """A writer with its store, and the jobs that it said have ended."""

    def __init__(self, folder: Path):
        self.ended: list[Job] = []
        self.store = Store(folder)
        self.writer = Writer(tiny(8, 16), self.store, self.ended.append)

    def job(self, request: Request | None = None) -> Job:
        request = request or Request()
        asked = {"index": list(request.index), "settings": {}}
        row = JobRow(
            id=f"job-{time.monotonic_ns()}", owner="me", state="queued", created=time.time(), parent="", request=asked
        )
        self.store.add_job(row)
        return Job(row, request=request, write=self.writer.put)

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
