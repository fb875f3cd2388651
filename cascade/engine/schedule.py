"""Who is answered next, and what an answer leads to; no threads and no networks in here. An `Engine` holds the lock around each
method, and none while a chunk steps: noise is drawn and previews are made on all devices at once.

Which owner: the one that has had the least of the clock, as Linux shares a processor, so that the calls of several are as long in
sum whatever they ask for. Who had nothing to do is owed OWED_S of it: a small request waits for one call of another owner's large
one. Which host that he asks: again the one that has had the least; so previews of newcomers and the last stage of others both go
on. Who of it: newcomers without an answer, then by arrival, where the k-th chunk of a request counts as one that came k requests
later; so nobody starves and a large request delays a small one by one chunk. Others who wait for that host fill the call.

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

from data.errors import RunError
from stages.ask import Ask
from stages.diffusion.samplers import Answer

from ..events import Cancelled, Event, Failed
from .failures import code_of, sampler_failure
from .host import Asks, Host
from .stats import HostStats
from .work import Chunk, Work

log = logging.getLogger(__name__)
OWED_S = 2.0


@dataclass(eq=False)
class Ticket:
    """Accepted work. `listen` is told every event, in the engine's thread. owner: whose turns it takes. was_answered: so that its
    owner has seen something of it, if it shows anything."""

    work: Work
    listen: Callable[[Event], None]
    owner: str
    number: int  # of arrival
    todo: range  # chunks that were not begun
    left: int  # images that are not finished
    wake: Callable[[], None] = field(repr=False)
    context: Context = field(default_factory=copy_context, repr=False)  # of who asked, for the log
    num_running: int = 0
    was_answered: bool = False
    done: bool = False
    is_cancelled: bool = False

    @property
    def is_new(self) -> bool:
        """Nothing of it was begun or answered yet."""
        return not (self.was_answered or self.num_running)

    def cancel(self) -> None:
        """From any thread, any number of times; the place is free at the next tick."""
        self.is_cancelled = True
        self.wake()


@dataclass(eq=False)
class Running:
    """A chunk that waits for answers, or steps. wishes: what it waits for. wanted: how many answers are missing. stage: the host
    where it stands. hosts: those that it has asked there, one of them at every step. left: those that it asked before."""

    ticket: Ticket
    number: int
    index: tuple[int, ...]
    steps: Chunk
    stage: str
    answers: list[Answer | None] = field(default_factory=list)
    wishes: list["Wish"] = field(default_factory=list)
    wanted: int = 0
    hosts: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    is_stepping: bool = True

    @property
    def turn(self) -> tuple[bool, int]:
        return self.ticket.was_answered, self.ticket.number + self.number

    @property
    def images(self) -> int:
        """Of the cascade's own size that take the memory of these."""
        return len(self.index) * self.ticket.work.weight


@dataclass(eq=False)
class Wish:
    """What a chunk asks of one host at once; these asks share a call. numbers: their places among all asks of the chunk's step.
    busy: in a call. losses: of the host, in this call."""

    chunk: Running
    host: Host
    asks: list[Ask]
    numbers: list[int]
    busy: bool = False
    losses: int = 0

    @property
    def ticket(self) -> Ticket:
        return self.chunk.ticket

    @property
    def rows(self) -> int:
        return sum(ask.rows for ask in self.asks)

    @property
    def make(self) -> tuple:
        return self.asks[0].make


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

    def __init__(self, stats: dict[str, HostStats], *, max_waiting: int, max_running: int):
        self.stats, self.max_waiting, self.max_running = stats, max_waiting, max_running
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

    @property
    def wishes(self) -> list[Wish]:
        """What waits or is in a call, in the order in which the chunks began."""
        return [wish for one in self.running for wish in one.wishes]

    def check(self, num: int, owner: str, most: int | None = None) -> None:
        """Raises QueueFullError where there is no room for num more images of an owner, who may have at most so many."""
        text = ""
        if most is not None and self.held[owner] + num > most:
            text = f"{self.held[owner]} images of this key wait, {num} more are too many for its {most}"
        elif is_beyond(self.held, owner, num, self.max_waiting):
            text = f"{self.waiting} images wait, {num} more are too many for a queue of {self.max_waiting}"
        if text:
            spent_s = sum(host.busy_s / max(host.images, 1) for host in self.stats.values())  # of an image
            raise QueueFullError(text, min(max(num * spent_s, 1.0), 60.0))

    def reserve(self, num: int, owner: str, most: int | None = None) -> None:
        """A place for num images, to be taken by `accept` or given back by `release`. Raises QueueFullError."""
        self.check(num, owner, most)
        self.held[owner] += num

    def release(self, num: int, owner: str) -> None:
        self.held[owner] -= num
        if not self.held[owner]:
            del self.held[owner]

    def accept(self, work: Work, listen: Callable[[Event], None], wake: Callable[[], None], owner: str = "") -> Ticket:
        """A request whose images have their places."""
        self.accepted += 1
        ticket = Ticket(work, listen, owner, self.accepted, range(work.num_chunks), work.total, wake)
        self.tickets.append(ticket)
        self.spent_s.setdefault(owner, self._floor_s - OWED_S)
        return ticket

    def has_work(self, names: Collection[str]) -> bool:
        """Whether `begin` or `choose` would find or end something."""
        images = self._images()
        return (
            any(each.is_cancelled or self._may_begin(each, names, images) for each in self.tickets)
            or any(not wish.busy and wish.host.name in names for wish in self.wishes)
        )  # fmt: skip

    def _images(self) -> Counter[str]:
        """That hold their noise and x, by owner; larger ones count as several. An owner who waits has an entry, too."""
        images = Counter(dict.fromkeys((ticket.owner for ticket in self.tickets), 0))
        for one in self.running:
            images[one.ticket.owner] += one.images
        return images

    def _may_begin(self, ticket: Ticket, names: Collection[str], images: Counter[str]) -> bool:
        if not ticket.todo or ticket.work.first not in names:
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
        for ticket in sorted(self.tickets, key=lambda each: (each.was_answered, each.number)):
            todo.setdefault(ticket.owner, []).append(ticket)
        while todo:
            owner = min(todo, key=lambda each: images[each])
            ticket = todo[owner][0]
            if self._may_begin(ticket, names, images):
                number, ticket.todo = ticket.todo[0], ticket.todo[1:]
                index = ticket.work.chunk(number)
                steps = ticket.work.steps(index, partial(tell, ticket))
                begun.append(Running(ticket, number, index, steps, ticket.work.first))
                ticket.num_running += 1
                self.running.append(begun[-1])
                images[owner] += begun[-1].images
            else:
                todo[owner].pop(0)
                if not todo[owner]:
                    del todo[owner]
        return begun

    def choose(self, names: Collection[str]) -> list[Wish]:
        """What is answered next, now busy: wishes at one of the named hosts and of one make, up to its batch."""
        free = [wish for wish in self.wishes if not wish.busy and wish.host.name in names]
        if not free:
            return []
        spent = self.spent_s
        self._floor_s = _raise(spent, {wish.ticket.owner for wish in free}, owed_s=OWED_S)
        clocks = {name: host.clock for name, host in self.stats.items()}
        _raise(clocks, {one.stage for one in self.running} | {wish.host.name for wish in self.wishes})
        for name, clock in clocks.items():
            self.stats[name].clock = clock
        first = min(
            (wish.ticket for wish in free), key=lambda each: (spent[each.owner], each.was_answered, each.number)
        )
        owner = first.owner
        name = min((wish.host.name for wish in free if wish.ticket.owner == owner), key=lambda each: clocks[each])
        chosen: list[Wish] = []
        rows = most = 0
        there = [wish for wish in free if wish.host.name == name]
        for wish in sorted(
            there, key=lambda each: (each.ticket.owner != owner, spent[each.ticket.owner], each.chunk.turn)
        ):
            if not chosen or (wish.make == chosen[0].make and rows + wish.rows <= most):
                most = most or self.stats[name].most(wish.host, wish.asks[0].size)
                chosen.append(wish)
                rows += wish.rows
                wish.busy = True
        return chosen

    def answered(self, chosen: list[Wish], answers: list[Answer], seconds: float) -> list[Running]:
        """A call took so long; each owner is charged for his rows of it. Gives the chunks that have all their answers, stepping."""
        rows = sum(wish.rows for wish in chosen)
        self.stats[chosen[0].host.name].count(rows, seconds)
        found, ready = iter(answers), []
        for wish in chosen:
            self.spent_s[wish.ticket.owner] += seconds * wish.rows / rows
            chunk = wish.chunk
            for number in wish.numbers:
                chunk.answers[number] = next(found)
                chunk.wanted -= 1
            chunk.wishes.remove(wish)
            if not chunk.wanted:
                chunk.is_stepping = True
                ready.append(chunk)
        return ready

    def moved(self, one: Running, asked: Asks | Exception | None) -> None:
        """A chunk has made its step: to questions, to a defect, or (None) to the end of its images."""
        one.is_stepping = False
        ticket = one.ticket
        ticket.was_answered = ticket.was_answered or bool(one.hosts)
        if ticket.done:
            one.steps.close()
        elif isinstance(asked, Exception):
            self.fail(ticket, one.stage, asked)
        elif asked is None:
            self.running.remove(one)
            self._leave(one)
            ticket.num_running -= 1
            ticket.left -= len(one.index)
            self.release(len(one.index), ticket.owner)
            if not ticket.left:
                self.end(ticket, ticket.work.finished())
        elif unknown := {host.name for host, _ in asked}.difference(self.stats):
            self.fail(ticket, one.stage, LookupError(f"it asks {', '.join(unknown)}, which nobody has here"))
        else:
            self._wish(one, asked)

    def _wish(self, one: Running, asked: Asks) -> None:
        """A chunk asks; what it asks of one host is one wish."""
        one.answers, one.wanted = [None] * len(asked), len(asked)
        wishes: dict[str, Wish] = {}
        for number, (host, ask) in enumerate(asked):
            wish = wishes.setdefault(host.name, Wish(one, host, [], []))
            wish.asks.append(ask)
            wish.numbers.append(number)
        one.wishes = list(wishes.values())
        if one.hosts.isdisjoint(wishes):
            self._leave(one)
            one.stage = asked[0][0].name
        one.hosts.update(wishes)

    def _leave(self, one: Running) -> None:
        """A chunk goes on to other hosts, or ends: its images count once for each that it has asked."""
        for name in one.hosts - one.left:
            self.stats[name].images += len(one.index)
        one.left |= one.hosts
        one.hosts = set()

    def fail(self, ticket: Ticket, stage: str, error: Exception) -> None:
        """A request whose sampler cannot go on; others do."""
        message = str(error)
        if not isinstance(error, RunError):
            ticket.context.run(partial(log.error, "stage %s: a sampler failed", stage, exc_info=error))
            message = f"stage {stage}: {sampler_failure(error)}"
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
            if not one.is_stepping:  # else `moved` closes it
                one.steps.close()
        self._tell(ticket, event)

    def tell(self, ticket: Ticket, event: Event) -> None:
        """What a step has to say, unless its request has ended meanwhile."""
        if not ticket.done:
            self._tell(ticket, event)

    def _tell(self, ticket: Ticket, event: Event) -> None:
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
