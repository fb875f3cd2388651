"""A job: one resolved request and the log of its events, written by the engine's thread and read by any number of streams.

The log keeps every milestone but only the newest preview of each stage and chunk. `Job.listen` runs in the engine's thread:
it numbers the event, appends it and returns. `writer` stores the pictures; readers wait at a milestone until its pictures
are stored, so that they see events in the order of their numbers. Watchers are woken through their own event loop.
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

from cascade.engine.engine import Ticket
from cascade.events import Cancelled, Event, Failed, Finished, Preview, StageFinished, StageStarted
from cascade.plan import Plan

from ..http.logs import About
from .states import ENDED, End, Failure, State, moved
from .store import JobRow

Data = dict[str, Any]


@dataclass(eq=False)
class Entry:
    """An event in a job's log. data: JSON for readers, None until it is made; preview: what `data` is made from, on demand."""

    id: int
    name: str
    data: Data | None = None
    preview: Preview | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def render(self, make: Callable[[Preview], Data]) -> Data:
        """The data; made once, however many readers there are."""
        with self.lock:
            if self.data is None:
                assert self.preview is not None
                self.data = make(self.preview)
                self.preview = None
            return self.data


class Bell:
    """An asyncio event that other threads may ring; several rings before the watcher wakes count as one. hears_previews:
    whether previews ring it; milestones always do."""

    def __init__(self) -> None:
        self.hears_previews = True
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()
        self._ringing = False

    def ring(self) -> None:
        """Wake the watcher. Thread-safe."""
        if not self._ringing:
            self._ringing = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody listens
                self._loop.call_soon_threadsafe(self._event.set)

    async def heard(self, timeout_s: float | None) -> None:
        """Wait for a ring, for at most timeout_s seconds (None: without limit)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
            self._event.clear()
            self._ringing = False  # after clear: a ring in between wakes once too often, never once too rarely


class Job:
    """A job and its log. row: as first stored. failure: why it has failed, or will once the engine has ended it. marks:
    counts of previews of an image after which the preview is kept as a milestone `partial`."""

    def __init__(
        self,
        row: JobRow,
        *,
        plan: Plan | None = None,
        marks: tuple[int, ...] = (),
        write: Callable[["Job", Entry, Event], None] | None = None,
        about: About | None = None,
    ):
        self.row, self.id, self.plan = row, row.id, plan
        self.about = about or About(job=row.id)  # context of log lines
        self.ticket: Ticket | None = None
        self.failure: Failure | None = None
        self.began = time.monotonic()
        self.first_preview_s: float | None = None
        self.left_at: float | None = None  # when the last watcher left
        self._write, self._marks = write, marks
        self._seen: Counter[tuple[int, ...]] = Counter()  # number of previews by chunk
        self._lock = threading.Lock()
        self._state: State = row.state
        self._log: list[Entry] = []
        self._slots: dict[tuple[str, tuple[int, ...]], Entry] = {}
        self._last_id = 0
        self._bells: set[Bell] = set()
        self._is_cancelled = False
        self.started: float | None = None  # when its first stage started
        self.calls: Counter[str] = Counter()  # answered network calls times their images, by stage

    @classmethod
    def replay(cls, row: JobRow, events: list[tuple[int, str, Data]]) -> "Job":
        """Restore an ended job from the store. If its end was not recorded, it ends in `failed` with the code `lost`."""
        last = max((event_id for event_id, _, _ in events), default=0)
        if row.state not in ENDED or not events or events[-1][1] not in ENDED:  # its end was not recorded
            failure = {"code": "lost", "message": "the end of this job could not be recorded; start it again"}
            row, last = replace(row, state="failed"), last + 1
            events = [*events, (last, "failed", failure)]
        job = cls(row)
        job._log, job._last_id = [Entry(event_id, name, data) for event_id, name, data in events], last
        return job

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    @property
    def has_ended(self) -> bool:
        """Whether the last milestone can be read."""
        with self._lock:
            return self._state in ENDED

    def begin(self) -> bool:
        """Move a queued job to running when a stage starts. True for its first stage."""
        is_first = self._state == "queued"
        if is_first:
            self._state = moved(self._state, "running")
        return is_first

    def fail(self, code: str, message: str) -> Failure:
        """Cancel the job and let it end in `failed`, whatever the engine still reports. Returns the reason, which is the
        first one given. Thread-safe."""
        with self._lock:
            self.failure = failure = self.failure or {"code": code, "message": message}
        self.cancel()
        return failure

    def end(self, entry: Entry, state: End, data: Data) -> None:
        """Set the state and the last milestone, which can be read from now on."""
        with self._lock:
            if state == "failed":
                self.failure = cast(Failure, data)
            self._state = moved(self._state, state)
            entry.name, entry.data = state, data

    def listen(self, event: Event) -> None:
        """Append an event of the engine to the log. Runs in the engine's thread and returns at once; events that have no
        name in streams are dropped."""
        name = _name(event)
        if not name:
            return
        is_milestone = not isinstance(event, Preview)
        with self._lock:
            self._last_id += 1
            entry = Entry(self._last_id, name)
            match event:
                case Preview():
                    entry.preview = event
                    self.calls[event.stage] += len(event.index)
                    self._slots[event.stage, event.index] = entry
                    is_milestone = self._keep(event)
                case StageStarted():
                    self.started = self.started or time.monotonic()
                case StageFinished():
                    self._slots.pop((event.stage, event.index), None)
                case Finished() | Failed() | Cancelled():
                    self._slots.clear()
            if not isinstance(event, Preview):
                self._log.append(entry)
        if not isinstance(event, Preview):
            assert self._write is not None
            self._write(self, entry, event)
        elif self.first_preview_s is None:
            self.first_preview_s = time.monotonic() - self.began
        self.wake(is_milestone=is_milestone)

    def _keep(self, event: Preview) -> bool:
        """Keep the preview as a milestone `partial` if its count is one of the marks. True if it was kept."""
        self._seen[event.index] += 1
        if self._seen[event.index] not in self._marks:
            return False
        self._last_id += 1
        self._log.append(Entry(self._last_id, "partial", preview=event))
        return True

    def wake(self, *, is_milestone: bool = True) -> None:
        """Ring the watchers' bells; for a preview only those that want previews now."""
        with self._lock:
            bells = [bell for bell in self._bells if is_milestone or bell.hears_previews]
        for bell in bells:
            bell.ring()

    def since(self, after: int, *, previews: bool = True) -> list[Entry]:
        """Readable entries with a number above `after`, in order, up to the first milestone that is not ready."""
        with self._lock:
            entries = [entry for entry in self._log if entry.id > after]
            bound = min((e.id for e in entries if e.data is None and e.preview is None), default=self._last_id + 1)
            if previews:
                entries += [entry for entry in self._slots.values() if entry.id > after]
        return sorted((entry for entry in entries if entry.id < bound), key=lambda entry: entry.id)

    @contextlib.contextmanager
    def watch(self) -> Iterator[Bell]:
        """A bell for one watcher, from inside an event loop. `left_at` is set when the last watcher leaves."""
        bell = Bell()
        with self._lock:
            self._bells.add(bell)
            self.left_at = None
        try:
            yield bell
        finally:
            with self._lock:
                self._bells.discard(bell)
                if not self._bells:
                    self.left_at = time.monotonic()

    def accepted(self, ticket: Ticket) -> None:
        """Attach the engine's ticket and cancel it if the job was cancelled before. The engine may already have sent
        events."""
        self.ticket = ticket
        if self._is_cancelled:
            ticket.cancel()

    def cancel(self) -> None:
        """Cancel the job. Thread-safe; may be called any number of times."""
        self._is_cancelled = True
        if self.ticket is not None:
            self.ticket.cancel()


def _name(event: Event) -> str:
    """Name of an event in streams; "" for events that streams do not carry."""
    match event:
        case StageStarted():
            return "stage_started"
        case Preview():
            return "preview"
        case StageFinished():
            return "stage_finished"
        case Failed():
            return "failed"
        case Cancelled():
            return "cancelled"
        case Finished():
            return "finished"
        case _:
            return ""
