"""Who is answered next, and what an answer leads to; no threads and no networks in here. An `Engine` holds the lock around each
method, and none while a chunk steps: noise is drawn and previews are made on all devices at once.

Which owner: the one that has had the least of the clock, as Linux shares a processor, so that the calls of several are as long in
sum whatever they ask for. Who had nothing to do is owed OWED_S of it: a small request waits for one call of another owner's large
one. Which stage of his: again the one that has had the least; so previews of newcomers and the last stage of others both go on. Who
in it: newcomers without a preview, then by arrival, where the k-th chunk of a request counts as one that came k requests later; so
nobody starves and a large request delays a small one by one chunk. Others who wait at that stage fill the call.

Memory: at most `max_waiting` images are accepted, and of these at most `max_running`, plus one chunk a newcomer, hold their noise
and x, about 6 float32 pictures an image; images larger than the cascade's own count as several. Owners who came later have a share
of both beyond that (`is_beyond`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial

from data.cli import RunError
from stages.memory import is_memory_error
from stages.sampling import Ask

from .chunk import Chunk, Plan, paint
from .events import Cancelled, Event, Failed, Finished, Preview
from .failures import code_of
from .link import Link
from .stats import StageStats

log = logging.getLogger(__name__)
OWED_S = 2.0


@dataclass(eq=False)
class Ticket:
    """An accepted request. `listen` is told every event, in the engine's thread. owner: whose turns it takes."""

    plan: Plan
    listen: Callable[[Event], None]
    owner: str
    number: int  # of arrival
    todo: range  # chunks that were not begun
    left: int  # images that are not finished
    wake: Callable[[], None] = field(repr=False)
    context: Context = field(default_factory=copy_context, repr=False)  # of who asked, for the log
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

    @property
    def images(self) -> int:
        """Of the cascade's own size that take the memory of these."""
        return len(self.index) * self.ticket.plan.weight


class QueueFullError(Exception):
    """No more images are accepted now. retry_after: seconds until there will be room, by what was served so far."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


def is_beyond(held: Counter[str], owner: str, num: int, limit: int) -> bool:
    """Whether num more are too many for one owner, where all together should have at most `limit`. held: what each has now. Who has
    less than an equal part of it may go on though others have filled it, who has nothing may begin: nobody can keep others out."""
    if held.total() + num <= limit:
        return False
    own, others = held[owner], sum(1 for each, has in held.items() if has and each != owner)
    return num > limit or not others or (own > 0 and own + num > limit // (others + 1))


class Schedule:
    """The requests that were accepted and are not done."""

    def __init__(self, stages: dict[str, StageStats], *, max_waiting: int, max_running: int):
        self.stages, self.max_waiting, self.max_running = stages, max_waiting, max_running
        self.tickets: list[Ticket] = []
        self.running: list[Running] = []
        self.accepted = 0
        self.held: Counter[str] = Counter()  # images that are not finished, by owner
        self.spent_s: dict[str, float] = {}  # of the clock by owner, as reckoned
        self._floor_s = 0.0  # the least of those who wait

    @property
    def waiting(self) -> int:
        """Images that are not finished."""
        return self.held.total()

    def check(self, num: int, owner: str, most: int | None = None) -> None:
        """Raises QueueFullError where there is no room for num more images of an owner, who may have at most so many."""
        text = ""
        if most is not None and self.held[owner] + num > most:
            text = f"{self.held[owner]} images of this key wait, {num} more are too many for its {most}"
        elif is_beyond(self.held, owner, num, self.max_waiting):
            text = f"{self.waiting} images wait, {num} more are too many for a queue of {self.max_waiting}"
        if text:
            spent_s = sum(stage.busy_s / max(stage.images, 1) for stage in self.stages.values())  # of an image
            raise QueueFullError(text, min(max(num * spent_s, 1.0), 60.0))

    def reserve(self, num: int, owner: str, most: int | None = None) -> None:
        """A place for num images, to be taken by `accept` or given back by `release`. Raises QueueFullError."""
        self.check(num, owner, most)
        self.held[owner] += num

    def release(self, num: int, owner: str) -> None:
        self.held[owner] -= num
        if not self.held[owner]:
            del self.held[owner]

    def accept(self, plan: Plan, listen: Callable[[Event], None], wake: Callable[[], None], owner: str = "") -> Ticket:
        """A request whose images have their places."""
        self.accepted += 1
        ticket = Ticket(plan, listen, owner, self.accepted, range(plan.num_chunks), len(plan.request.index), wake)
        self.tickets.append(ticket)
        self.spent_s.setdefault(owner, self._floor_s - OWED_S)
        return ticket

    def has_work(self, names: Collection[str]) -> bool:
        """Whether `begin` or `choose` would find or end something."""
        images = self._images()
        return (
            any(each.is_cancelled or self._may_begin(each, names, images) for each in self.tickets)
            or any(not one.busy and one.link.name in names for one in self.running)
        )  # fmt: skip

    def _images(self) -> Counter[str]:
        """That hold their noise and x, by owner; larger ones count as several. An owner who waits has an entry, too."""
        images = Counter(dict.fromkeys((ticket.owner for ticket in self.tickets), 0))
        for one in self.running:
            images[one.ticket.owner] += one.images
        return images

    def _may_begin(self, ticket: Ticket, names: Collection[str], images: Counter[str]) -> bool:
        if not ticket.todo or ticket.plan.links[0].name not in names:
            return False
        is_below = len(images) > 1 and images[ticket.owner] < self.max_running // len(images)
        return ticket.is_new or is_below or images.total() < self.max_running

    def begin(self, names: Collection[str], tell: Callable[[Ticket, Event], None]) -> list[Running]:
        """Ends what was cancelled; gives chunks, busy, whose first step is to be made: of newcomers to the named stages at once, of
        others where there is room, which goes to the owner who has least of it."""
        for ticket in [each for each in self.tickets if each.is_cancelled]:
            self.end(ticket, Cancelled())
        begun: list[Running] = []
        images = self._images()
        todo: dict[str, list[Ticket]] = {}
        for ticket in sorted(self.tickets, key=lambda each: (each.has_preview, each.number)):
            todo.setdefault(ticket.owner, []).append(ticket)
        while todo:
            owner = min(todo, key=lambda each: images[each])
            ticket = todo[owner][0]
            if self._may_begin(ticket, names, images):
                number, ticket.todo = ticket.todo[0], ticket.todo[1:]
                index = ticket.plan.chunk(number)
                steps = paint(ticket.plan, index, partial(tell, ticket))
                begun.append(Running(ticket, number, index, steps, ticket.plan.links[0]))
                ticket.num_running += 1
                self.running.append(begun[-1])
                images[owner] += begun[-1].images
            else:
                todo[owner].pop(0)
                if not todo[owner]:
                    del todo[owner]
        return begun

    def choose(self, names: Collection[str]) -> list[Running]:
        """Who is answered next, now busy: chunks at one of the named stages and of one make, up to its batch."""
        free = [one for one in self.running if not one.busy and one.link.name in names]
        if not free:
            return []
        spent = self.spent_s
        self._floor_s = _raise(spent, {one.ticket.owner for one in free}, owed_s=OWED_S)
        clocks = {name: stats.clock for name, stats in self.stages.items()}
        _raise(clocks, {one.link.name for one in self.running})
        for name, clock in clocks.items():
            self.stages[name].clock = clock
        first = min((one.ticket for one in free), key=lambda each: (spent[each.owner], each.has_preview, each.number))
        owner = first.owner
        name = min((one.link.name for one in free if one.ticket.owner == owner), key=lambda each: clocks[each])
        chosen: list[Running] = []
        rows = most = 0
        there = [one for one in free if one.link.name == name]
        for one in sorted(there, key=lambda one: (one.ticket.owner != owner, spent[one.ticket.owner], one.turn)):
            if not chosen or (one.ask.make == chosen[0].ask.make and rows + one.ask.rows <= most):
                most = most or self.stages[name].most(one.link, one.ask.size)
                chosen.append(one)
                rows += one.ask.rows
                one.busy = True
        return chosen

    def answered(self, chosen: list[Running], seconds: float) -> None:
        """A call took so long; each owner is charged for his rows of it."""
        rows = sum(one.ask.rows for one in chosen)
        self.stages[chosen[0].link.name].count(rows, seconds)
        for one in chosen:
            self.spent_s[one.ticket.owner] += seconds * one.ask.rows / rows

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
            self.release(len(one.index), ticket.owner)
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
            ticket.context.run(partial(log.error, "stage %s: a sampler failed", stage, exc_info=error))
            why = (
                "out of memory; ask for fewer or smaller images"
                if is_memory_error(error)
                else "an error while sampling"
            )
            message = f"stage {stage}: {why}"
        self.end(ticket, Failed(stage=stage, message=message, code=code_of(error)))

    def end(self, ticket: Ticket, event: Event) -> None:
        """The last event of a request; what it held is free."""
        if ticket.done:
            return
        ticket.done = True
        self.release(ticket.left, ticket.owner)
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
            ticket.context.run(log.exception, "a listener failed; its request is cancelled")
            ticket.is_cancelled = True


def _raise(clocks: dict[str, float], waiting: Collection[str], owed_s: float = 0.0) -> float:
    """The least clock of those who wait. Others are raised to it, but for owed_s: more is not owed for the time without them."""
    floor = min(clocks[each] for each in waiting)
    for each in clocks:
        if each not in waiting:
            clocks[each] = max(clocks[each], floor - owed_s)
    return floor
