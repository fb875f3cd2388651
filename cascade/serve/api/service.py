"""What the routes do, independent of HTTP: create, find, refine, cancel and remove jobs; and the server's housekeeping."""

import itertools
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from torch import Tensor

from cascade.engine.engine import Engine, QueueFullError
from cascade.events import Preview
from cascade.plan import Plan

from ..http import logs
from ..http.keys import Share
from ..http.limits import NOBODY, Limits, MemoryBreaker, Pace, Rate, Refused, Slot, Streams
from ..http.metrics import Metrics
from ..jobs.job import Data, Job
from ..jobs.states import EXPIRED
from ..jobs.store import JobRow, PictureRow, Store
from ..jobs.writer import REFUSED_CONTENT, Check, Writer, told
from .bodies import RefineBody, as_stored, check_count, planned
from .previews import partial_marks, preview_data, time_left
from .refine import refined, settings_over
from .views import history, job_data

log = logging.getLogger("cascade.serve")
KEEPER_S = 0.25  # between turns of the keeper
RECORD_BYTES = 1 << 20  # disk space for a new job's record
DRAINING = 20  # turns of the keeper between log lines


class Service:
    """Jobs on one engine and one store. name: the cascade's, which is also the model's name for OpenAI clients. prefix:
    start of all job ids. check: a filter that sees every picture before anyone else does (`Writer`)."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        name: str,
        limits: Limits | None = None,
        prefix: str = "",
        check: Check | None = None,
        log_prompts: bool = False,
    ):
        self.name, self.prefix, self.log_prompts = name, prefix, log_prompts
        self.engine, self.cascade, self.store, self.limits = engine, engine.cascade, store, limits or Limits()
        self.metrics = Metrics(engine)
        self.rate, self.streams = Rate(self.limits.jobs_per_min), Streams(self.limits.streams, self.metrics.streams.set)
        self.pace = Pace()
        self.writer = Writer(store, self._ended, check)
        self.is_draining = False
        self.shares: dict[str, Share] = {}  # by owner, for those with limits of their own
        self._memory = MemoryBreaker()
        self._open: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True, name="keeper")
        self._keeper.start()

    @property
    def what_died(self) -> str:
        """A message that names a thread that has died, after which only a restart helps; "" if all live or the server is
        shutting down."""
        live = {"engine": self.engine.is_alive, "writer": self.writer.is_alive, "keeper": self._keeper.is_alive()}
        dead = [name for name, is_alive in live.items() if not is_alive]
        return f"a thread has died: {dead[0]}" if dead and not self.is_draining else ""

    @property
    def why_not_ready(self) -> str:
        """Why new jobs are refused; "" if they are accepted."""
        if self.is_draining:
            return "shutting down"
        if message := self.what_died:
            return message
        if not self.store.is_there:
            return "the store's folder is gone"
        if self._memory.is_short:
            return "no memory for the last requests"
        return ""

    def create(self, owner: str, plan: Plan, *, parent: str = "", partials: int = 0) -> Job:
        """Create a job and submit it to the engine. partials: how many previews of each image become milestones, see
        `partial_marks`. Raises ValueError, Refused."""
        share, num = self.share(owner), len(plan.index)
        if share.max_waiting is not None and num > share.max_waiting:
            raise ValueError(f"num: {num} images; this key may have {share.max_waiting} at once")
        plan = self.engine.fitted(plan)
        row = JobRow(
            id=self.prefix + secrets.token_urlsafe(15), owner=owner, state="queued", created=time.time(), parent=parent,
            request=as_stored(plan),
        )  # fmt: skip
        about = logs.now()
        about.job = row.id
        marks = partial_marks(plan, partials)
        job = Job(row, plan=plan, marks=marks, write=self.writer.put, about=replace(about))
        self.store.limit(owner, share.store_mb and share.store_mb << 20)
        self._make_room()
        with self._lock:
            self._check_room(owner)
            self._open[job.id] = job
        try:
            self.store.add_job(row)
            job.accepted(self.engine.submit(plan, job.listen, owner=owner, most=share.max_waiting))
        except BaseException as error:
            with self._lock:
                self._open.pop(job.id, None)
            with suppress(sqlite3.Error):
                self.store.forget(row)
            if isinstance(error, QueueFullError):
                raise self._full(error) from None
            if isinstance(error, sqlite3.Error) and told(error)[0] == "storage_full":
                raise Refused(
                    507, "storage_full", "the job cannot be recorded; try again later", retry_after=60
                ) from None
            raise
        if self.log_prompts:
            log.info("prompts: %r", plan.request.prompts)
        return job

    def speeds(self, plan: Plan) -> dict[str, float]:
        """Seconds of a row of a call by host, as measured here. Raises Refused."""
        try:
            return self.engine.speeds(plan)
        except QueueFullError as error:
            raise self._full(error) from None

    def admit(self, owner: str) -> None:
        """Check rate and room for a new job, before any work is done for it. Raises Refused."""
        if self.is_draining:
            raise Refused(503, "shutting_down", "the server is shutting down; try again later", retry_after=30)
        share = self.share(owner)
        self.rate.take(owner, share.jobs_per_min)
        self._make_room()
        with self._lock:
            self._check_room(owner)
        try:
            self.engine.check_room(1, owner, share.max_waiting)
        except QueueFullError as error:
            raise self._full(error) from None

    def share(self, owner: str) -> Share:
        """Limits of an owner."""
        return self.shares.get(owner, Share())

    def place(self, owner: str) -> Slot:
        """Reserve a slot for one more stream. Raises Refused."""
        most = None if owner == NOBODY else self.share(owner).streams or self.limits.key_streams
        return self.streams.reserve(owner, most)

    def _make_room(self) -> None:
        """Expire old jobs if other programs fill the disk, before anyone is refused."""
        min_bytes = self.limits.free_bytes + RECORD_BYTES
        if self.store.free_bytes < min_bytes and (expired := self.writer.make_room()):
            log.warning("others fill the disk: the pictures of %d jobs, the oldest, made room", expired)

    def _check_room(self, owner: str) -> None:
        """Raise Refused for an owner with too many open jobs or unsaved pictures, and for a full disk."""
        open_jobs = self.share(owner).open_jobs or self.limits.open_jobs
        if sum(job.row.owner == owner for job in self._open.values()) >= open_jobs:
            message = f"{open_jobs} jobs of this key are open; wait for one to end"
            raise Refused(429, "too_many_jobs", message, retry_after=2)
        if self.writer.has_too_many(owner, self.limits.unsaved):
            raise Refused(429, "disk_is_slow", "finished pictures wait for the disk; try again later", retry_after=5)
        if self.store.free_bytes < self.limits.free_bytes:
            raise Refused(507, "storage_full", "no space is left for pictures; try again later", retry_after=60)

    def _full(self, error: QueueFullError) -> Refused:
        """The refusal for a full queue or an engine that has stopped."""
        if self.is_draining or not self.engine.is_alive:
            return Refused(503, "shutting_down", str(error), retry_after=error.retry_after)
        return Refused(429, "queue_full", str(error), retry_after=error.retry_after)

    def row(self, owner: str, number: str) -> JobRow:
        """The record of a job. Raises Refused: 404 if there is none or it belongs to another owner, 410 if it has expired."""
        row = self.store.find(number, owner)
        if row is None:
            raise Refused(404, "not_found", "no such job")
        if row.state == EXPIRED:
            raise Refused(410, "expired", "this job's pictures have expired; start it again")
        return row

    def find(self, owner: str, number: str) -> Job:
        """A job: the open one, or its replay from the store. Raises Refused."""
        row = self.row(owner, number)
        with self._lock:
            job = self._open.get(number)
        return job or Job.replay(self.row(owner, row.id), self.store.events(number))

    def find_all(self, owner: str, numbers: Iterable[str]) -> dict[str, Job | Refused]:
        """Jobs by id; for those that cannot be found, the refusal."""
        jobs: dict[str, Job | Refused] = {}
        for job_id in numbers:
            try:
                jobs[job_id] = self.find(owner, job_id)
            except Refused as error:
                jobs[job_id] = error
        return jobs

    def cancel(self, owner: str, number: str) -> None:
        """Cancel a job; without effect if it has ended. Raises Refused."""
        self.find(owner, number).cancel()

    def remove(self, owner: str, number: str) -> None:
        """Remove an ended job and its pictures; a second time without effect. Raises Refused."""
        row = self.store.find(number, owner)
        if row is None:
            raise Refused(404, "not_found", "no such job")
        with self._lock:
            if number in self._open:
                raise Refused(409, "job_is_open", "this job has not ended; cancel it first")
        if row.state != EXPIRED:
            self.store.drop(number)

    def refine(self, owner: str, number: str, body: RefineBody) -> Job:
        """Create a job that continues stored pictures of a stage, with the same noise as if the job had not been held.
        Raises ValueError, Refused."""
        original = self.row(owner, number).request
        settings = settings_over(original["settings"], body.settings)
        request = refined(body, original, settings, self.store.pictures(number), self.read, self.cascade, self.limits)
        check_count(len(request.pick), self.limits)
        plan = planned(request, settings, self.cascade, self.limits, self.speeds)
        return self.create(owner, plan, parent=number)

    def read(self, picture: PictureRow) -> bytes:
        """Content of a stored picture. Raises Refused (410) if it has expired."""
        content = self.store.read(picture)
        if content is None:
            raise Refused(410, "expired", "this picture has expired; start the job again")
        return content

    def picture(self, owner: str, number: str, stage: str, k: int) -> bytes:
        """Content of a stored picture, as PNG. Raises Refused."""
        return self.read(self.picture_row(owner, number, stage, k))

    def picture_row(self, owner: str, number: str, stage: str, k: int) -> PictureRow:
        """The record of a stored picture. Raises Refused."""
        self.row(owner, number)
        pictures = {picture.k: picture for picture in self.store.pictures(number) if picture.stage == stage}
        if k not in pictures:
            numbers = ", ".join(map(str, sorted(pictures))) or "none"
            raise Refused(404, "not_found", f"no such picture; of stage {stage[:60]!r} there are {numbers}")
        return pictures[k]

    def jobs(self, owner: str, limit: int, before: tuple[float, str]) -> Data:
        """One page of an owner's history."""
        rows = self.store.jobs(owner, limit + 1, before)
        return history([self.describe(row) for row in rows[:limit]], limit, is_more=len(rows) > limit)

    def describe(self, row: JobRow) -> Data:
        """A job in the form of `JobView`, without the root path."""
        with self._lock:
            job = self._open.get(row.id)
        view = job_data(row, job.state if job else row.state, self.store.pictures(row.id))
        if view["state"] == "failed":
            events = reversed(self.store.events(row.id))
            view["error"] = job.failure if job else next((data for _, name, data in events if name == "failed"), None)
        return view

    def allowed(self, job: Job, event: Preview) -> Tensor | None:
        """Images of a preview; None, and the job fails, if the filter refuses them."""
        images = event.images
        if self.writer.allows(images):
            return images
        job.fail(*REFUSED_CONTENT)
        return None

    def preview(self, job: Job, event: Preview) -> Data:
        """Data of a preview for its watchers; {} if the filter refuses it."""
        images = self.allowed(job, event)
        if images is None:
            return {}
        assert job.plan is not None
        return preview_data(event, images, time_left(job, job.plan, self.engine.stats))

    def _ended(self, job: Job) -> None:
        """Log and count a job that has ended. Runs in the writer's thread."""
        spent_s = time.monotonic() - job.began
        code = job.failure["code"] if job.failure and job.state == "failed" else ""
        fields = {"state": job.state, "seconds": round(spent_s, 3), "images": len(job.row.request["index"])}
        log.info(
            "job %s: %d images, %.2f s%s", job.state, fields["images"], spent_s, f", {code}" if code else "",
            extra={"said": fields | ({"code": code} if code else {})},
        )  # fmt: skip
        with self._lock:
            self._open.pop(job.id, None)
        if code != "out_of_memory" or not self._is_large(job):
            self._memory.tell(failed=code == "out_of_memory")
        self.metrics.jobs.labels(job.state).inc()
        self.metrics.total_s.observe(spent_s)
        if job.first_preview_s is not None:
            self.metrics.first_preview_s.observe(job.first_preview_s)

    def _is_large(self, job: Job) -> bool:
        """Whether the job's pictures are larger than the cascade's own: if memory does not suffice for them, that says
        nothing about other jobs."""
        return job.plan is not None and job.plan.weight > 1

    def _keep(self) -> None:
        """The keeper's loop: cancel abandoned jobs, update metrics, expire old pictures."""
        for turn in itertools.count():
            if self._closing.wait(KEEPER_S):
                return
            now = time.monotonic()
            with self._lock:
                jobs = list(self._open.values())
            for job in jobs:
                if job.left_at is not None and now - job.left_at > self.limits.abandon_s:
                    job.cancel()
            self.metrics.open_jobs.set(len(jobs))
            self.metrics.unsaved.set(self.writer.unsaved)
            self.metrics.store_bytes.set(self.store.num_bytes)
            if self.is_draining and turn % DRAINING == 0:
                self._say_what_drains("draining")
            if turn % 240 == 0:
                self.writer.make_room()

    def close(self, drain_s: float = 0.0) -> None:
        """Refuse new jobs, let open ones run for drain_s, then cancel them and write what is finished. A second call
        shortens the first."""
        if not self.is_draining:
            self._say_what_drains(f"no new jobs; for up to {drain_s:.0f} s")
        self.is_draining = True
        self.engine.stop(drain_s=drain_s)
        is_first = not self._closing.is_set()
        self.writer.close()
        self._closing.set()
        self._keeper.join()
        if is_first:
            log.info("drained: every job has ended or was cancelled, all pictures are written")

    def _say_what_drains(self, what: str) -> None:
        with self._lock:
            jobs = len(self._open)
        log.info("%s: %d jobs, %d images of them, %d pictures to be written, %d event streams", what, jobs,
                 self.engine.waiting, self.writer.unsaved, self.streams.num)  # fmt: skip
