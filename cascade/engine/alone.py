"""Runs a single work without an engine, in the caller's thread: the network calls and events of an engine that runs it alone."""

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


def events_of(work: Work, batch: int, rows: int = 2) -> Iterator[Event]:
    """The events of a work, computed lazily: nothing runs before the next event is requested. batch: images computed together;
    rows: most batch rows of each, with guidance.

    A call that runs out of memory is repeated with half the rows. Raises RunError if a single row does not fit, if a network gives
    NaN or infinity, and for a defect, whose traceback is logged.
    """
    stats: Mapping[str, HostStats] = defaultdict(lambda: HostStats(batch=rows * batch))
    for number in range(work.num_chunks):
        events: deque[Event] = deque()
        steps = work.steps(work.chunk(number), events.append)
        asks = advance(steps, None, work.first)
        yield from drained(events)
        while asks:
            stage = asks[0][0].name
            asks = advance(steps, answered(asks, stats), stage)
            yield from drained(events)
    yield work.finished()


def drained(events: deque[Event]) -> Iterator[Event]:
    """Take events from the queue until it is empty."""
    while events:
        yield events.popleft()


@torch.inference_mode()
def advance(steps: Chunk, answers: list[Answer] | None, stage: str) -> Asks | None:
    """Advance a chunk to its next asks; None at its end. answers=None starts it. stage: where it is, for messages. Raises
    RunError."""
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
    """The answers to the asks of a chunk, in order; asks to the same host share calls."""
    answers: dict[int, Answer] = {}
    for name in dict.fromkeys(host.name for host, _ in asked):
        positions = [position for position, (host, _) in enumerate(asked) if host.name == name]
        host, asks = asked[positions[0]][0], [asked[position][1] for position in positions]
        answers |= zip(positions, called(host, asks, stats[name]), strict=True)
    return [answers[position] for position in range(len(asked))]


@torch.inference_mode()
def called(host: Host, asks: list[Ask], stats: HostStats) -> list[Answer]:
    """The answers of one host, with as many rows per call as memory allows. Raises RunError."""
    size = asks[0].size
    while True:
        try:
            return host.answer(asks, batch=stats.most(host, size))
        except Exception as error:
            if is_memory_error(error) and stats.most(host, size) > 1:
                stats.halve(host, size)
            else:
                message = network_failure(error)
                log.error("stage %s: %s", host.name, message, exc_info=error)
                raise RunError(f"stage {host.name}: {message}") from error
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # only now: the exception kept tensors alive
