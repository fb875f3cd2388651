"""The engine runs many requests at once: continuous batching at the granularity of one network call.

Each tick selects one host, gathers the asks that wait for it - of any request, noise level or guidance scale - into one call, and
sends each chunk its x0_hat. A new request joins at the next tick, a cancelled one is removed at the next tick, every answer is a
preview. `schedule` decides whose turn it is. A call that runs out of memory halves the host's batch for its size and is repeated.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Self

import torch

from stages.memory import is_memory_error

from ..events import Cancelled, Event, Failed
from ..pipeline import Cascade
from ..plan import Plan
from ..request import Request
from .failures import code_of, network_failure
from .host import Asks, Host, Remote
from .schedule import QueueFullError, Running, Schedule, Ticket, Wish
from .speeds import Speeds
from .stats import HostStats
from .work import Work

log = logging.getLogger(__name__)
CALL_ROWS = 16  # rows of a network call if none were measured
IDLE_S = 0.5
STOPS = "no new requests are accepted, the engine stops"
MEASURED_S = 60.0  # a network's speed, waiting for others' calls included
LOSSES = 3  # times that a network in another process may be lost during the same call before its requests fail


class Engine:
    """Runs requests of one cascade, and other work for its hosts. `tick` makes one network call; `start` ticks in background
    threads until `stop`.

    batch: rows of a call by host. replicas: the same cascade on other devices; each device has a thread of its own.
    elsewhere: networks in other processes, by host; each has a thread here, too. prepare: called in a device's thread with its
    hosts before the first tick; returns the batch of each (`cascade.engine.batching`). max_waiting: most images that are accepted
    and not finished. max_running: most that hold their noise and x. buckets: pad calls to powers of two, for compiled networks.
    clock: seconds, by which calls are timed and hosts and owners have their turns.
    """

    def __init__(
        self,
        cascade: Cascade,
        *replicas: Cascade,
        batch: Mapping[str, int] | None = None,
        elsewhere: Mapping[str, Sequence[Remote]] | None = None,
        prepare: Callable[[Sequence[Host]], Mapping[str, int]] | None = None,
        max_waiting: int = 512,
        max_running: int = 64,
        buckets: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.cascade, self.prepare, self.buckets, self.clock = cascade, prepare, buckets, clock
        self.stats = {host.name: HostStats(batch=(batch or {}).get(host.name, CALL_ROWS)) for host in cascade.hosts}
        elsewhere = elsewhere or {}
        by_device: dict[str, dict[str, Host]] = {}
        for replica in (cascade, *replicas):
            for host in replica.hosts:
                if host.name not in elsewhere:
                    by_device.setdefault(str(host.device), {}).setdefault(host.name, host)
        self.workers = list(by_device.values())
        for host in cascade.hosts:
            self.workers += [{host.name: replace(host, remote=remote)} for remote in elsewhere.get(host.name, ())]
        self._speeds = Speeds(clock)
        self._schedule = Schedule(self.stats, max_waiting=max_waiting, max_running=max_running)
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = self._stopping = False
        self._prepared: list[Mapping[str, int] | Exception] = []

    @property
    def waiting(self) -> int:
        """Number of images that are accepted and not finished."""
        return self._schedule.waiting

    @property
    def is_alive(self) -> bool:
        """Whether the engine was started and all its threads still run."""
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    def fitted(self, plan: Plan) -> Plan:
        """The plan with chunks small enough for one call of each stage, so that others wait for one call, not for several."""
        limits = (
            self.stats[link.hosts[name].name].most(link.hosts[name], size) // rows
            for link, size in zip(plan.links, plan.sizes, strict=True)
            for name, rows in link.rows.items()
        )
        return plan.batched(max(1, min(plan.request.batch, *limits)))

    def speeds(self, plan: Plan) -> dict[str, float]:
        """Seconds of a row of a call by host, in calls as large as the plan's would be. Measures what is not known yet, between two
        calls of others. Raises QueueFullError if that does not succeed now."""
        plan = self.fitted(plan)
        num = min(plan.per_chunk, len(plan.index))
        with self._changed:
            self._check_open()
            asked = {
                link.hosts[role].name: self._speeds.ask(link.hosts[role].name, num * rows)
                for link in plan.links
                for role, rows in link.rows.items()
            }
            self._changed.notify_all()
        try:
            return {name: future.result(MEASURED_S) for name, future in asked.items()}
        except QueueFullError:
            raise
        except Exception as error:
            raise QueueFullError("the networks' speed cannot be measured now; try again later", 5.0) from error

    def check_room(self, num: int, owner: str = "", most: int | None = None) -> None:
        """Raise QueueFullError if `submit` would for a request of `num` images."""
        with self._changed:
            self._check_open()
            self._schedule.check(num, owner, most)

    def submit(
        self, asked: Request | Plan, listen: Callable[[Event], None], *, owner: str = "", most: int | None = None
    ) -> Ticket:
        """Accept a request or plan. `listen` gets its events in an engine thread and must return at once.

        owner: owners share the engine equally. most: limit of this owner's waiting images. Raises QueueFullError if there is no
        room, before prompts are encoded; ValueError for mistakes in the request.
        """
        return self._accepted(len(asked.index), lambda: self.cascade.painting(asked), listen, owner, most)

    def run(self, work: Work, listen: Callable[[Event], None], *, owner: str = "", most: int | None = None) -> Ticket:
        """Accept work of any kind for the hosts of this cascade; it shares calls and turns with all other work. See `submit`."""
        if work.first not in self.stats:
            raise ValueError(f"work: no host {work.first!r}, there are {', '.join(self.stats)}")
        return self._accepted(work.total, lambda: work, listen, owner, most)

    def _accepted(
        self, num: int, make: Callable[[], Work], listen: Callable[[Event], None], owner: str, most: int | None
    ) -> Ticket:
        """Reserve room for `num` images, then make the work and queue it; gives the room back if that fails."""
        with self._changed:
            self._check_open()
            self._schedule.reserve(num, owner, most)
        try:
            work = make()
            with self._changed:
                self._check_open()
                ticket = self._schedule.accept(work, listen, self._wake, owner)
                self._changed.notify_all()
        except BaseException:
            with self._changed:
                self._schedule.release(num, owner)
            raise
        return ticket

    def _check_open(self) -> None:
        if self._closed:
            raise QueueFullError(STOPS, 60.0)

    @torch.inference_mode()
    def tick(self, worker: int = 0) -> bool:
        """Make at most one network call, on the device of `worker`. Returns False if there was nothing to do."""
        hosts = self.workers[worker]
        with self._changed:
            begun = self._schedule.begin(hosts, self._tell)
        for chunk in begun:
            self._step(chunk)
        with self._changed:
            wishes = self._schedule.choose(hosts)
        if not wishes:
            return bool(begun)
        host = hosts[wishes[0].host.name]
        stats, asks = self.stats[host.name], [ask for wish in wishes for ask in wish.asks]
        start = self.clock()
        try:
            answers = host.answer(asks, batch=stats.most(host, asks[0].size), buckets=self.buckets)
        except Exception as error:
            answers = []
            with self._changed:
                self._not_answered(wishes, stats, error)
        if not answers:
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # only now: the exception kept tensors alive
            return True
        seconds = self.clock() - start
        self._speeds.count(host, asks[0].size, sum(ask.rows for ask in asks), seconds)
        with self._changed:
            ready = self._schedule.answered(wishes, answers, seconds)
        for chunk in ready:
            self._step(chunk)
        return True

    def _step(self, one: Running) -> None:
        """Advance a chunk to its next asks; without answers, start it. The caller owns it: `is_stepping` keeps others away."""
        result: Asks | Exception | None = None
        answers = [answer for answer in one.answers if answer is not None]
        one.answers = []  # frees them before the next step
        try:
            if not one.ticket.done:
                result = one.steps.send(answers) if answers else next(one.steps)
        except StopIteration:
            pass
        except Exception as error:
            result = error
        with self._changed:
            self._schedule.moved(one, result)
            self._changed.notify_all()

    def _tell(self, ticket: Ticket, event: Event) -> None:
        with self._changed:
            self._schedule.tell(ticket, event)

    def _not_answered(self, chosen: list[Wish], stats: HostStats, error: Exception) -> None:
        """Handle a failed call. Out of memory: halve the batch and retry; if one row does not fit, its request fails. Network in
        another process lost: retry, up to LOSSES times. Anything else is a defect, and the requests of the call fail."""
        name, message = chosen[0].host.name, network_failure(error)
        for wish in chosen:
            wish.busy = False
        if is_memory_error(error):
            host, size = chosen[0].host, chosen[0].asks[0].size
            if stats.most(host, size) > 1:
                stats.halve(host, size)
                return
        elif isinstance(error, ConnectionError):
            log.warning("stage %s: %s", name, error)
            for wish in chosen:
                wish.losses += 1
            chosen = [wish for wish in chosen if wish.losses == LOSSES]
            if not chosen:
                return
            message = f"its network was lost {LOSSES} times; try again later"
        log.error("stage %s: %s", name, message, exc_info=error)
        for ticket in {wish.ticket for wish in chosen}:
            self._schedule.end(ticket, Failed(stage=name, message=f"stage {name}: {message}", code=code_of(error)))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def start(self) -> Self:
        """Start ticking in background threads, one per device; returns when all are prepared. Raises if preparing raised."""
        for worker in range(len(self.workers)):
            thread = threading.Thread(target=self._run, args=(worker,), daemon=True, name=f"engine-{worker}")
            self._threads.append(thread)
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: len(self._prepared) == len(self.workers))
        errors = [result for result in self._prepared if isinstance(result, Exception)]
        if errors:
            self.stop()
            raise errors[0]
        return self

    def _run(self, worker: int) -> None:
        try:
            hosts = [host for host in self.workers[worker].values() if not host.remote]
            self._is_prepared(self.prepare(hosts) if self.prepare and hosts else {})
        except Exception as error:
            self._is_prepared(error)
            return
        try:
            while not self._stopping:
                if not (self._measure(worker) or self.tick(worker)):
                    with self._changed:
                        if not (self._stopping or self._has_work(self.workers[worker])):
                            self._changed.wait(IDLE_S)
        except BaseException:  # a defect in the engine: end all requests, so that nobody waits forever
            with self._changed:
                self._closed = True
                for ticket in list(self._schedule.tickets):
                    self._schedule.end(ticket, Failed(stage="", message="the engine has failed; see its log"))
                self._speeds.close(QueueFullError("the engine has failed; see its log", 60.0))
            raise

    @torch.inference_mode()
    def _measure(self, worker: int) -> bool:
        """Measure a speed that somebody waits for, if there is one."""
        return self._speeds.measure(self.workers[worker], self.stats, buckets=self.buckets)

    def _has_work(self, hosts: Mapping[str, Host]) -> bool:
        return self._speeds.wants(hosts) or self._schedule.has_work(hosts)

    def _is_prepared(self, found: Mapping[str, int] | Exception) -> None:
        """Record what a device's `prepare` returned or raised; of several devices with one network the smallest batch counts."""
        with self._changed:
            self._prepared.append(found)
            batches = [batch for batch in self._prepared if not isinstance(batch, Exception)]
            for name, stats in self.stats.items():
                stats.batch = min((batch[name] for batch in batches if name in batch), default=stats.batch)
            self._changed.notify_all()

    def stop(self, *, drain_s: float = 0.0) -> None:
        """Accept nothing more, wait up to drain_s for running requests, cancel the rest, end the threads."""
        deadline = time.monotonic() + drain_s
        with self._changed:
            self._closed = True
            while self._schedule.tickets and self.is_alive and (remaining_s := deadline - time.monotonic()) > 0:
                self._changed.wait(min(remaining_s, IDLE_S))
            for ticket in list(self._schedule.tickets):
                self._schedule.end(ticket, Cancelled())
            self._speeds.close(QueueFullError(STOPS, 60.0))
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
