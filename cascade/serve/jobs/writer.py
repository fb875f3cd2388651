"""One thread between the engine and the disk: stores the pictures of each milestone, then makes its data for readers.

The engine only puts events into the queue, which serves owners in turn. `unsaved` counts the pictures in it; if there are
too many, new jobs are refused.
"""

import errno
import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty

from torch import Tensor

from cascade.engine.schedule import is_beyond
from cascade.events import Cancelled, Event, Failed, Finished, StageFinished, StageStarted
from cascade.output.metadata import describe
from cascade.output.pictures import save_png
from data.disk import FULL

from ..http import logs
from .job import Data, Entry, Job
from .states import ENDED, End
from .store import Store
from .turns import Turns

log = logging.getLogger(__name__)
Check = Callable[[Tensor], bool]  # whether uint8 (b, c, h, w) may be shown
RETRY_S = 1.0
REFUSED_CONTENT = ("refused_content", "a picture was refused by the filter")


class Writer:
    """The thread and its queue. ended: called with every job once its end is recorded; a job that cannot be recorded has
    failed, and recording it is retried. check: a filter of pictures; those that it refuses, or for which it raises, are
    neither shown nor stored, and their job fails."""

    def __init__(self, store: Store, ended: Callable[[Job], None], check: Check | None = None):
        self.store, self.ended, self.check = store, ended, check
        self._unsaved: Counter[str] = Counter()  # by owner
        self._lock = threading.Lock()
        self._queue: Turns[tuple[Job, Entry, Event]] = Turns()
        self._unrecorded: list[tuple[Job, Entry]] = []  # ends of jobs
        self._thread = threading.Thread(target=self._run, daemon=True, name="writer")
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def put(self, job: Job, entry: Entry, event: Event) -> None:
        """Queue an event, from the engine's thread; never waits."""
        if isinstance(event, StageFinished):
            self._count(job, len(event.index))
        self._queue.put(job.row.owner, (job, entry, event))

    def _count(self, job: Job, num: int) -> None:
        with self._lock:
            self._unsaved[job.row.owner] += num

    @property
    def unsaved(self) -> int:
        """Pictures that wait to be stored."""
        return self._unsaved.total()

    def has_too_many(self, owner: str, limit: int) -> bool:
        """Whether an owner's unsaved pictures exceed its part of `limit` (`schedule.is_beyond`)."""
        with self._lock:
            return is_beyond(self._unsaved, owner, 0, limit)

    def close(self) -> None:
        """Write everything in the queue, then end the thread."""
        self._queue.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get(RETRY_S if self._unrecorded else None)
            except Empty:
                self._record()
                continue
            if item is None:
                return self._record()
            with logs.during(item[0].about):
                self._write(*item)

    def _write(self, job: Job, entry: Entry, event: Event) -> None:
        try:
            self._milestone(job, entry, event)
        except (OSError, sqlite3.Error) as error:
            self._fail(job, entry, *told(error))
        except Exception:
            log.exception("a milestone cannot be made")
            self._fail(job, entry, "internal", "a defect of the server; its log says more")
        if isinstance(event, StageFinished):
            self._count(job, -len(event.index))
        if job.has_ended:
            if (job, entry) not in self._unrecorded:
                self.ended(job)
            self._record()
            self.make_room(job.row.owner)
        job.wake()

    def _record(self) -> None:
        """Record pending failures in order, up to the first that cannot be; until recorded, their jobs count as open."""
        while self._unrecorded:
            job, entry = self._unrecorded[0]
            with logs.during(job.about):
                try:
                    self.store.add_event(job.id, entry.id, entry.name, entry.data or {}, state=job.state)
                except (OSError, sqlite3.Error) as error:
                    log.error("the end of this job cannot be recorded, tried again in %.0f s: %s", RETRY_S, error)
                    return
                self._unrecorded.pop(0)
                self.ended(job)

    def _fail(self, job: Job, entry: Entry, code: str, message: str) -> None:
        """Let the job end in `failed`, whatever the engine still reports. A milestone before the end gets empty data, which
        streams skip."""
        log.error("%s", message)
        failure = job.fail(code, message)
        if entry.name in ENDED:
            job.end(entry, "failed", {**failure})
            self._unrecorded.append((job, entry))
        else:
            entry.data = {}

    def _milestone(self, job: Job, entry: Entry, event: Event) -> None:
        match event:
            case StageStarted():
                if job.begin():
                    fields = {
                        "images": len(job.row.request["index"]),
                        "waited_s": round(time.monotonic() - job.began, 3),
                    }
                    log.info("job started: %d images, waited %.2f s", *fields.values(), extra={"said": fields})
                self._keep(job, entry, {"stage": event.stage, "index": list(event.index), "nfe": event.nfe})
            case StageFinished() if job.failure:
                entry.data = {}
            case StageFinished() if not self.allows(event.images):
                self._fail(job, entry, *REFUSED_CONTENT)
            case StageFinished():
                pictures = self._save(job, event)
                self._keep(job, entry, {"stage": event.stage, "index": list(event.index), "pictures": pictures})
            case Finished():
                assert job.plan is not None
                if job.plan.is_whole:
                    self._end(job, entry, "finished", {"num": event.num, "nfe": event.nfe})
                else:
                    self._end(job, entry, "held", {"stage": job.plan.names[-1]})
            case Failed():
                code = "out_of_memory" if event.code == "out_of_memory" else "sampling_failed"
                self._end(job, entry, "failed", {"code": code, "message": event.message, "stage": event.stage})
            case Cancelled():
                self._end(job, entry, "cancelled", {})

    def _keep(self, job: Job, entry: Entry, data: Data) -> None:
        """Store an intermediate milestone, then show it to readers."""
        self.store.add_event(job.id, entry.id, entry.name, data, state=job.state)
        entry.data = data

    def _end(self, job: Job, entry: Entry, state: End, data: Data) -> None:
        """Store the last milestone, then show it to readers. An earlier failure takes precedence over how the job ended."""
        if job.failure:
            state, data = "failed", {**job.failure}
        self.store.add_event(job.id, entry.id, state, data, state=state)
        job.end(entry, state, data)

    def allows(self, images: Tensor) -> bool:
        """Whether the filter allows these pictures; False if it raises."""
        try:
            return self.check is None or bool(self.check(images))
        except Exception:
            log.exception("the filter failed; the picture is refused")
            return False

    def _save(self, job: Job, event: StageFinished) -> list[Data]:
        """Store the pictures of a finished stage; returns their data for readers. Raises OSError, sqlite3.Error."""
        plan = job.plan
        assert plan is not None
        pictures = []
        self.make_room(job.row.owner)
        if self.store.is_beyond_disk(job.row.owner):
            raise OSError(errno.ENOSPC, "the rest of the disk is for others")
        for image, k in zip(event.images, event.index, strict=True):
            height, width = image.shape[-2:]
            metadata = describe(plan, k, stage="" if event.stage == plan.chain[-1].name else event.stage)
            save = partial(save_png, image, metadata=metadata)
            self._add_picture(job, event.stage, k, (width, height), save)
            pictures.append({"k": k, "url": picture_url(job.id, event.stage, k), "width": width, "height": height})
        self.make_room(job.row.owner)
        return pictures

    def _add_picture(self, job: Job, stage: str, k: int, size: tuple[int, int], save: Callable[[Path], None]) -> None:
        """Store a picture; on a full disk expire old ones and try once more."""
        try:
            self.store.add_picture(job.id, stage, k, size, save)
        except (OSError, sqlite3.Error) as error:
            if not is_full(error) or not self.make_room(job.row.owner):
                raise
            self.store.add_picture(job.id, stage, k, size, save)

    def make_room(self, owner: str | None = None) -> int:
        """Expire what is too old or too much; returns the number of jobs. owner: the last writer, expired first."""
        try:
            return self.store.expire(owner)
        except (OSError, sqlite3.Error) as error:
            log.error("old pictures cannot be removed: %s", error)
            return 0


def picture_url(job: str, stage: str, k: int) -> str:
    """Path of a picture in the API, without the root path."""
    return f"/v1/jobs/{job}/stages/{stage}/{k}.png"


def is_full(error: OSError | sqlite3.Error) -> bool:
    """Whether the error means that no space is left: a full disk, a quota, a file that may not grow."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL  # sqlite3's own errors lack it
    return error.errno in FULL


def told(error: OSError | sqlite3.Error) -> tuple[str, str]:
    """(code, message) of a storage error, for users."""
    if is_full(error):
        return "storage_full", "no space is left for pictures; remove some, or ask who runs this server"
    return "storage_failed", f"pictures cannot be stored ({type(error).__name__})"
