"""Scheduling: which asks are answered next, and what follows from an answer. No threads and no networks here: an `Engine` holds its
lock around each method, and releases it while a chunk steps, so that all devices draw noise and make previews at the same time.

Owner: the one with the least time used, a fair share as in Linux's CPU scheduler, so that owners get equal time whatever they
request. An owner that was idle is owed at most OWED_S, so a small request waits for one call of another owner's large one. Host, of
those that this owner waits for: the one with the least time used, so that previews of newcomers and the last stage of others both
progress. Chunk: newcomers without an answer first, then by arrival, where the k-th chunk of a request counts as one that came k
requests later: nobody starves, and a large request delays a small one by one chunk. Other chunks waiting for that host fill the
call.

Memory: at most `max_waiting` images are accepted. Of these at most `max_running`, plus one chunk per newcomer, hold their noise and
x, about 6 float32 pictures per image; images larger than the cascade's own count as several. Owners who come later get a share of
both beyond these limits (`is_beyond`).
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
    """Accepted work. listen: gets every event, in an engine thread. owner: whose share of time it uses. was_answered: it has had
    an answer, so its owner has seen a first preview if it shows any."""

    work: Work
    listen: Callable[[Event], None]
    owner: str
    number: int  # order of arrival
    todo: range  # chunks not begun
    left: int  # images not finished
    wake: Callable[[], None] = field(repr=False)
    context: Context = field(default_factory=copy_context, repr=False)  # the submitter's context variables, for the log
    num_running: int = 0
    was_answered: bool = False
    done: bool = False
    is_cancelled: bool = False

    @property
    def is_new(self) -> bool:
        """Whether no chunk was begun or answered yet."""
        return not (self.was_answered or self.num_running)

    def cancel(self) -> None:
        """Cancel, from any thread, any number of times; takes effect at the next tick."""
        self.is_cancelled = True
        self.wake()


@dataclass(eq=False)
class Running:
    """A chunk that waits for answers or steps. wishes: the asks it waits for. wanted: number of missing answers. stage: the host
    where it is. hosts: those it has asked at this stage, at least one of them at every step. left: those of earlier stages."""

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
        """Sort key among the chunks of an owner: newcomers first, then arrival plus the chunk's number."""
        return self.ticket.was_answered, self.ticket.number + self.number

    @property
    def images(self) -> int:
        """Its memory, in images of the cascade's own size."""
        return len(self.index) * self.ticket.work.weight


@dataclass(eq=False)
class Wish:
    """The asks of a chunk's step to one host; they share a call. numbers: their positions among all asks of the step. busy: in a
    call. losses: how often the host's process was lost during this call."""

    chunk: Running
    host: Host
    asks: list[Ask]
    numbers: list[int]
    busy: bool = False
    losses: int = 0

    @property
    def ticket(self) -> Ticket:
        """The work that it belongs to."""
        return self.chunk.ticket

    @property
    def rows(self) -> int:
        """Batch rows of its asks."""
        return sum(ask.rows for ask in self.asks)

    @property
    def make(self) -> tuple:
        """Wishes of the same make can share a call."""
        return self.asks[0].make


class QueueFullError(Exception):
    """No more images are accepted now. retry_after: estimated seconds until there is room, from the pace so far."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after


def is_beyond(held: Counter[str], owner: str, num: int, limit: int) -> bool:
    """Whether `num` more are too many for one owner, if all owners together should hold at most `limit`. held: what each has now.

    Nobody can lock others out: if others have filled the limit, an owner with nothing may still begin, and one with less than an
    equal part may go up to that part.
    """
    if held.total() + num <= limit:
        return False
    own_images, num_others = held[owner], sum(1 for other, images in held.items() if images and other != owner)
    return num > limit or not num_others or (own_images > 0 and own_images + num > limit // (num_others + 1))


class Schedule:
    """The accepted work that is not done, and whose turn it is."""

    def __init__(self, stats: dict[str, HostStats], *, max_waiting: int, max_running: int):
        self.stats, self.max_waiting, self.max_running = stats, max_waiting, max_running
        self.tickets: list[Ticket] = []
        self.running: list[Running] = []
        self.accepted = 0
        self.held: Counter[str] = Counter()  # images not finished, by owner
        self.spent_s: dict[str, float] = {}  # virtual time used, by owner
        self._floor_s = 0.0  # the least of `spent_s` among waiting owners

    @property
    def waiting(self) -> int:
        """Number of images not finished."""
        return self.held.total()

    @property
    def wishes(self) -> list[Wish]:
        """All wishes, waiting or in a call, in the order in which their chunks began."""
        return [wish for chunk in self.running for wish in chunk.wishes]

    def check(self, num: int, owner: str, most: int | None = None) -> None:
        """Raise QueueFullError if there is no room for `num` more images of an owner. most: the owner's own limit."""
        message = ""
        if most is not None and self.held[owner] + num > most:
            message = f"{self.held[owner]} images of this key wait, {num} more are too many for its {most}"
        elif is_beyond(self.held, owner, num, self.max_waiting):
            message = f"{self.waiting} images wait, {num} more are too many for a queue of {self.max_waiting}"
        if message:
            image_s = sum(host.busy_s / max(host.images, 1) for host in self.stats.values())  # per image
            raise QueueFullError(message, min(max(num * image_s, 1.0), 60.0))

    def reserve(self, num: int, owner: str, most: int | None = None) -> None:
        """Reserve room for `num` images, to be used by `accept` or given back by `release`. Raises QueueFullError."""
        self.check(num, owner, most)
        self.held[owner] += num

    def release(self, num: int, owner: str) -> None:
        """Give back the room of `num` images."""
        self.held[owner] -= num
        if not self.held[owner]:
            del self.held[owner]

    def accept(self, work: Work, listen: Callable[[Event], None], wake: Callable[[], None], owner: str = "") -> Ticket:
        """Queue work whose images have reserved room."""
        self.accepted += 1
        ticket = Ticket(work, listen, owner, self.accepted, range(work.num_chunks), work.total, wake)
        self.tickets.append(ticket)
        self.spent_s.setdefault(owner, self._floor_s - OWED_S)
        return ticket

    def has_work(self, names: Collection[str]) -> bool:
        """Whether `begin` or `choose` would have something to do for these hosts."""
        images = self._images()
        return (
            any(ticket.is_cancelled or self._may_begin(ticket, names, images) for ticket in self.tickets)
            or any(not wish.busy and wish.host.name in names for wish in self.wishes)
        )  # fmt: skip

    def _images(self) -> Counter[str]:
        """Images that hold their noise and x, by owner; larger ones count as several. Waiting owners have an entry, too."""
        images = Counter(dict.fromkeys((ticket.owner for ticket in self.tickets), 0))
        for chunk in self.running:
            images[chunk.ticket.owner] += chunk.images
        return images

    def _may_begin(self, ticket: Ticket, names: Collection[str], images: Counter[str]) -> bool:
        if not ticket.todo or ticket.work.first not in names:
            return False
        is_below = len(images) > 1 and images[ticket.owner] < self.max_running // len(images)
        return ticket.is_new or is_below or images.total() < self.max_running

    def begin(self, names: Collection[str], tell: Callable[[Ticket, Event], None]) -> list[Running]:
        """End cancelled work, and begin chunks at the named hosts; the caller makes their first step. Newcomers begin at once,
        others if there is room, which goes to the owner with the fewest running images."""
        for ticket in [ticket for ticket in self.tickets if ticket.is_cancelled]:
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
        """Select the wishes of the next call and mark them busy: for one of the named hosts, of one make, up to its batch."""
        waiting = [wish for wish in self.wishes if not wish.busy and wish.host.name in names]
        if not waiting:
            return []
        spent = self.spent_s
        self._floor_s = _raise(spent, {wish.ticket.owner for wish in waiting}, owed_s=OWED_S)
        clocks = {name: host.clock for name, host in self.stats.items()}
        _raise(clocks, {chunk.stage for chunk in self.running} | {wish.host.name for wish in self.wishes})
        for name, clock in clocks.items():
            self.stats[name].clock = clock
        first = min(
            (wish.ticket for wish in waiting), key=lambda each: (spent[each.owner], each.was_answered, each.number)
        )
        owner = first.owner
        name = min((wish.host.name for wish in waiting if wish.ticket.owner == owner), key=lambda each: clocks[each])
        chosen: list[Wish] = []
        rows = most = 0
        candidates = [wish for wish in waiting if wish.host.name == name]
        for wish in sorted(
            candidates, key=lambda each: (each.ticket.owner != owner, spent[each.ticket.owner], each.chunk.turn)
        ):
            if not chosen or (wish.make == chosen[0].make and rows + wish.rows <= most):
                most = most or self.stats[name].most(wish.host, wish.asks[0].size)
                chosen.append(wish)
                rows += wish.rows
                wish.busy = True
        return chosen

    def answered(self, chosen: list[Wish], answers: list[Answer], seconds: float) -> list[Running]:
        """Distribute the answers of a call and charge each owner for its rows of `seconds`. Returns the chunks that now have all
        answers, marked as stepping."""
        rows = sum(wish.rows for wish in chosen)
        self.stats[chosen[0].host.name].count(rows, seconds)
        remaining, ready = iter(answers), []
        for wish in chosen:
            self.spent_s[wish.ticket.owner] += seconds * wish.rows / rows
            chunk = wish.chunk
            for position in wish.numbers:
                chunk.answers[position] = next(remaining)
                chunk.wanted -= 1
            chunk.wishes.remove(wish)
            if not chunk.wanted:
                chunk.is_stepping = True
                ready.append(chunk)
        return ready

    def moved(self, one: Running, asked: Asks | Exception | None) -> None:
        """Record the result of a chunk's step: new asks, an exception, or None at its end."""
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
        """Turn the asks of a step into wishes, one per host."""
        one.answers, one.wanted = [None] * len(asked), len(asked)
        wishes: dict[str, Wish] = {}
        for position, (host, ask) in enumerate(asked):
            wish = wishes.setdefault(host.name, Wish(one, host, [], []))
            wish.asks.append(ask)
            wish.numbers.append(position)
        one.wishes = list(wishes.values())
        if one.hosts.isdisjoint(wishes):
            self._leave(one)
            one.stage = asked[0][0].name
        one.hosts.update(wishes)

    def _leave(self, one: Running) -> None:
        """A chunk moves on to other hosts, or ends: count its images once for each host that it has asked."""
        for name in one.hosts - one.left:
            self.stats[name].images += len(one.index)
        one.left |= one.hosts
        one.hosts = set()

    def fail(self, ticket: Ticket, stage: str, error: Exception) -> None:
        """End a request whose step raised; others are not affected. A defect is logged with its traceback."""
        message = str(error)
        if not isinstance(error, RunError):
            ticket.context.run(partial(log.error, "stage %s: a sampler failed", stage, exc_info=error))
            message = f"stage {stage}: {sampler_failure(error)}"
        self.end(ticket, Failed(stage=stage, message=message, code=code_of(error)))

    def end(self, ticket: Ticket, event: Event) -> None:
        """End a request with its last event, and free its room."""
        if ticket.done:
            return
        ticket.done = True
        self.release(ticket.left, ticket.owner)
        self.tickets.remove(ticket)
        for chunk in [chunk for chunk in self.running if chunk.ticket is ticket]:
            self.running.remove(chunk)
            if not chunk.is_stepping:  # else `moved` closes it
                chunk.steps.close()
        self._tell(ticket, event)

    def tell(self, ticket: Ticket, event: Event) -> None:
        """Pass an event of a step to the listener, unless the request has ended meanwhile."""
        if not ticket.done:
            self._tell(ticket, event)

    def _tell(self, ticket: Ticket, event: Event) -> None:
        try:
            ticket.listen(event)
        except Exception:
            ticket.context.run(log.exception, "a listener failed; its request is cancelled")
            ticket.is_cancelled = True


def _raise(clocks: dict[str, float], waiting: Collection[str], owed_s: float = 0.0) -> float:
    """Return the least clock of those who wait. Raises all other clocks to at least that minus owed_s, which bounds what an idle
    one is owed."""
    floor = min(clocks[name] for name in waiting)
    for name in clocks:
        if name not in waiting:
            clocks[name] = max(clocks[name], floor - owed_s)
    return floor
