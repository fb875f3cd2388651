"""Who is answered next, and what an answer leads to; no threads and no networks in here. An `Engine` holds the lock around each
method, and none while a chunk steps: noise is drawn and previews are made on all devices at once.

Which stage: the one that has had the least of the clock, as Linux shares a processor; so previews of newcomers and the last stage
of others both go on. Who in it: newcomers without a preview, then by arrival, where the k-th chunk of a request counts as one that
came k requests later; so nobody starves and a large request delays a small one by one chunk.

Memory: at most `max_waiting` images are accepted, and of these at most `max_running`, plus one chunk a newcomer, hold their noise
and x, about 6 float32 pictures an image; images larger than the cascade's own count as several.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

from data.cli import RunError
from stages.memory import is_memory_error
from stages.sampling import Ask

from .chunk import Chunk, Plan, paint
from .events import Cancelled, Event, Failed, Finished, Preview
from .link import Link
from .stats import StageStats

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Ticket:
    """An accepted request. `listen` is told every event, in the engine's thread."""

    plan: Plan
    listen: Callable[[Event], None]
    number: int  # of arrival
    todo: range  # chunks that were not begun
    left: int  # images that are not finished
    wake: Callable[[], None] = field(repr=False)
    num_running: int = 0
    has_preview: bool = False
    done: bool = False
    is_cancelled: bool = False

    @property
    def is_new(self) -> bool:
        """Nothing of it was begun or seen yet."""
        return not (self.has_preview or self.num_running)

    def cancel(self) -> None:
        """From any thread, any number of times; the place is free at the next tick."""
        self.is_cancelled = True
        self.wake()


@dataclass(eq=False)
class Running:
    """A chunk that waits at a stage, or is busy: in a call, or on its way to the next. losses: of the network, in this call."""

    ticket: Ticket
    number: int
    index: tuple[int, ...]
    steps: Chunk
    link: Link
    ask: Ask = field(init=False)  # from its first step on
    busy: bool = True
    losses: int = 0

    @property
    def turn(self) -> tuple[bool, int]:
        return self.ticket.has_preview, self.ticket.number + self.number


class QueueFullError(Exception):
    """No more images are accepted now. retry_after: seconds until there will be room, by what was served so far."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


class Schedule:
    """The requests that were accepted and are not done."""

    def __init__(self, stages: dict[str, StageStats], *, max_waiting: int, max_running: int):
        self.stages, self.max_waiting, self.max_running = stages, max_waiting, max_running
        self.tickets: list[Ticket] = []
        self.running: list[Running] = []
        self.accepted = 0
        self.waiting = 0  # images that are not finished

    def accept(self, plan: Plan, listen: Callable[[Event], None], wake: Callable[[], None]) -> Ticket:
        """Raises QueueFullError."""
        num = len(plan.request.index)
        if self.waiting + num > self.max_waiting:
            text = f"{self.waiting} images wait, {num} more are too many for a queue of {self.max_waiting}"
            spent_s = sum(stage.busy_s / max(stage.images, 1) for stage in self.stages.values())  # of an image
            raise QueueFullError(text, min(max(num * spent_s, 1.0), 60.0))
        self.accepted += 1
        ticket = Ticket(plan, listen, self.accepted, range(plan.num_chunks), num, wake)
        self.tickets.append(ticket)
        self.waiting += num
        return ticket

    def has_work(self, names: Collection[str]) -> bool:
        """Whether `begin` or `choose` would find or end something."""
        return (
            any(each.is_cancelled or self._may_begin(each, names) for each in self.tickets)
            or any(not one.busy and one.link.name in names for one in self.running)
        )  # fmt: skip

    @property
    def _images(self) -> int:
        """That hold their noise and x; larger ones count as several."""
        return sum(len(one.index) * one.ticket.plan.weight for one in self.running)

    def _may_begin(self, ticket: Ticket, names: Collection[str]) -> bool:
        is_here = bool(ticket.todo) and ticket.plan.links[0].name in names
        return is_here and (ticket.is_new or self._images < self.max_running)

    def begin(self, names: Collection[str], tell: Callable[[Ticket, Event], None]) -> list[Running]:
        """Ends what was cancelled; gives chunks, busy, whose first step is to be made: of newcomers to the named stages at once, of
        others where there is room."""
        for ticket in [each for each in self.tickets if each.is_cancelled]:
            self.end(ticket, Cancelled())
        begun: list[Running] = []
        for ticket in sorted(self.tickets, key=lambda each: (each.has_preview, each.number)):
            while self._may_begin(ticket, names):
                number, ticket.todo = ticket.todo[0], ticket.todo[1:]
                index = ticket.plan.chunk(number)
                steps = paint(ticket.plan, index, partial(tell, ticket))
                begun.append(Running(ticket, number, index, steps, ticket.plan.links[0]))
                ticket.num_running += 1
                self.running.append(begun[-1])
        return begun

    def choose(self, names: Collection[str]) -> list[Running]:
        """Who is answered next, now busy: chunks of one of the named stages and of one make, up to its batch."""
        free = [one for one in self.running if not one.busy and one.link.name in names]
        if not free:
            return []
        waited_for = {one.link.name for one in self.running}
        floor = min(self.stages[name].clock for name in waited_for)
        for name, stats in self.stages.items():
            if name not in waited_for:  # time in which nothing waited there is not owed to it
                stats.clock = max(stats.clock, floor)
        name = min((one.link.name for one in free), key=lambda each: self.stages[each].clock)
        chosen: list[Running] = []
        rows = most = 0
        for one in sorted((one for one in free if one.link.name == name), key=lambda one: one.turn):
            if not chosen or (one.ask.make == chosen[0].ask.make and rows + one.ask.rows <= most):
                most = most or self.stages[name].most(one.link, one.ask.size)
                chosen.append(one)
                rows += one.ask.rows
                one.busy = True
        return chosen

    def moved(self, one: Running, asked: tuple[Link, Ask] | Exception | None) -> None:
        """A chunk has made its step: to a question, to a defect, or (None) to the end of its images."""
        one.busy, one.losses = False, 0
        ticket, before = one.ticket, one.link
        if ticket.done:
            one.steps.close()
        elif isinstance(asked, Exception):
            self.fail(ticket, before.name, asked)
        elif asked is None:
            self.running.remove(one)
            self.stages[before.name].images += len(one.index)
            ticket.num_running -= 1
            ticket.left -= len(one.index)
            self.waiting -= len(one.index)
            if not ticket.left:
                self.end(ticket, Finished(num=len(ticket.plan.request.index), nfe=ticket.plan.nfe))
        else:
            one.link, one.ask = asked
            if one.link is not before:
                self.stages[before.name].images += len(one.index)

    def fail(self, ticket: Ticket, stage: str, error: Exception) -> None:
        """A request whose sampler cannot go on; others do."""
        message = str(error)
        if not isinstance(error, RunError):
            log.error("stage %s: a sampler failed", stage, exc_info=error)
            why = (
                "out of memory; ask for fewer or smaller images"
                if is_memory_error(error)
                else "an error while sampling"
            )
            message = f"stage {stage}: {why}"
        self.end(ticket, Failed(stage=stage, message=message))

    def end(self, ticket: Ticket, event: Event) -> None:
        """The last event of a request; what it held is free."""
        if ticket.done:
            return
        ticket.done = True
        self.waiting -= ticket.left
        self.tickets.remove(ticket)
        for one in [each for each in self.running if each.ticket is ticket]:
            self.running.remove(one)
            if not one.busy:  # else `moved` closes it
                one.steps.close()
        self._tell(ticket, event)

    def tell(self, ticket: Ticket, event: Event) -> None:
        """What a step has to say, unless its request has ended meanwhile."""
        if not ticket.done:
            self._tell(ticket, event)

    def _tell(self, ticket: Ticket, event: Event) -> None:
        ticket.has_preview = ticket.has_preview or isinstance(event, Preview)
        try:
            ticket.listen(event)
        except Exception:
            log.exception("a listener failed; its request is cancelled")
            ticket.is_cancelled = True
