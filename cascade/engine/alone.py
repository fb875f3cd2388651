"""Work with nobody beside it: the calls and events of an engine that has it alone, in the thread of the caller."""

import logging
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping

import torch

from data.errors import RunError
from stages.ask import Ask
from stages.diffusion.samplers import Answer
from stages.memory import is_memory_error

from ..events import Event
from .failures import network_failure, sampler_failure
from .host import Asks, Host
from .stats import HostStats
from .work import Chunk, Work

log = logging.getLogger(__name__)


def events_of(work: Work, batch: int) -> Iterator[Event]:
    """Nothing is computed before the next event is asked for; who stops asking stops the work. batch: images that are computed
    together; calls have up to twice as many rows, for guidance.

    A call that memory does not suffice for is made again with half the rows. Raises RunError where that does not help, where a
    network gives no numbers, and for a defect, whose traceback is logged.
    """
    stats: Mapping[str, HostStats] = defaultdict(lambda: HostStats(batch=2 * batch))
    for number in range(work.num_chunks):
        events: deque[Event] = deque()
        steps = work.steps(work.chunk(number), events.append)
        asked = advance(steps, None, work.first)
        yield from drained(events)
        while asked:
            stage = asked[0][0].name
            asked = advance(steps, answered(asked, stats), stage)
            yield from drained(events)
    yield work.finished()


def drained(events: deque[Event]) -> Iterator[Event]:
    while events:
        yield events.popleft()


@torch.inference_mode()
def advance(steps: Chunk, answers: list[Answer] | None, stage: str) -> Asks | None:
    """Advance a chunk to its next asks; None at its end. answers=None starts it. stage: where it stands."""
    try:
        return next(steps) if answers is None else steps.send(answers)
    except StopIteration:
        return None
    except RunError:
        raise
    except Exception as error:
        log.error("stage %s: a sampler failed", stage, exc_info=error)
        raise RunError(f"stage {stage}: {sampler_failure(error)}") from error


def answered(asked: Asks, stats: Mapping[str, HostStats]) -> list[Answer]:
    """The answers to what a chunk asks, those of one host in calls that they share."""
    answers: dict[int, Answer] = {}
    for name in dict.fromkeys(host.name for host, _ in asked):
        numbers = [number for number, (host, _) in enumerate(asked) if host.name == name]
        host, asks = asked[numbers[0]][0], [asked[number][1] for number in numbers]
        answers |= zip(numbers, called(host, asks, stats[name]), strict=True)
    return [answers[number] for number in range(len(asked))]


@torch.inference_mode()
def called(host: Host, asks: list[Ask], stats: HostStats) -> list[Answer]:
    """The answers of one host, in as many rows a call as memory holds."""
    size = asks[0].size
    while True:
        try:
            return host.answer(asks, batch=stats.most(host, size))
        except Exception as error:
            if is_memory_error(error) and stats.most(host, size) > 1:
                stats.halve(host, size)
            else:
                why = network_failure(error)
                log.error("stage %s: %s", host.name, why, exc_info=error)
                raise RunError(f"stage {host.name}: {why}") from error
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # not before the error, and what it holds, is gone
