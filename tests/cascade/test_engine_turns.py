"""The engine's turns: who is answered next, how many run and wait, and what a cancelled request leaves."""

from collections import Counter

import pytest

from cascade.engine.engine import Engine, QueueFullError
from cascade.events import Cancelled, Finished, Preview, StageFinished
from cascade.request import Request

from .engines import seconds, watched


def test_a_newcomer_is_seen_at_the_next_tick_of_its_stage(networks):
    engine, late = Engine(networks, batch=dict.fromkeys(networks.names, 8)), []
    for k in range(20):
        engine.submit(Request(num=4, seed=k, batch=4), lambda _: None)
    for _ in range(40):
        engine.tick()
    engine.submit(Request(seed=99), late.append)
    before = engine.stats["base_8"].calls
    while not any(isinstance(e, Preview) for e in late):
        assert engine.tick()
    assert engine.stats["base_8"].calls == before + 1  # whose turn it is depends on measured seconds


def test_a_large_request_does_not_hold_up_small_ones_and_is_not_starved(networks):
    engine, ended = Engine(networks, batch=dict.fromkeys(networks.names, 4), max_running=8), []

    def listen(name):
        return lambda event: ended.append(name) if isinstance(event, Finished) else None

    engine.submit(Request(num=64, batch=4), listen("large"))
    for k in range(60):
        for _ in range(20):
            engine.tick()
        engine.submit(Request(num=1, seed=k), listen(k))
    while engine.tick():
        pass
    assert len(ended) == 61
    assert ended.index(0) < ended.index("large")
    assert ended.index("large") < 60  # newcomers never ceased, yet it came to its end before the last of them


def test_a_large_request_delays_a_small_one_by_a_chunk(networks):
    """All of its chunks run when the small one comes, which is seen at once and then waits for those that came before it."""
    engine, ended = Engine(networks, batch=dict.fromkeys(networks.names, 1)), []

    def listen(name):
        return lambda event: ended.append(name) if isinstance(event, StageFinished) else None

    engine.submit(Request(num=12, batch=1, last="base_8"), listen("large"))
    engine.tick()
    engine.tick()
    engine.submit(Request(num=1, seed=1, last="base_8"), listen("small"))
    while engine.tick():
        pass
    assert ended.count("large") == 12
    assert ended.index("small") <= 2


def test_every_stage_has_its_share_of_the_clock(networks):
    engine = Engine(networks, batch=dict.fromkeys(networks.names, 2), clock=seconds())
    seen = Counter()
    for k in range(40):
        engine.submit(
            Request(seed=k), lambda event: seen.update([event.stage]) if isinstance(event, StageFinished) else None
        )
    for _ in range(150):
        engine.tick()
    assert seen["sr_32"] >= 3  # though the base stage still has newcomers
    assert seen["base_8"] < 40


def test_a_stage_is_not_owed_the_time_in_which_nothing_waited_for_it(networks):
    """An hour of the base stage alone; then others' long work above it does not keep a newcomer from its first preview."""
    engine, late = Engine(networks, batch=dict.fromkeys(networks.names, 1)), []
    engine.stats["base_8"].count(1, 3600.0)
    above = Request(num=8, batch=1, settings={"sr_16": {"num_steps": 40}}, last="sr_16")
    seen = Counter()
    engine.submit(above, lambda event: seen.update([type(event)]))
    while seen[StageFinished] < 1:
        assert engine.tick()
    for _ in range(3):
        engine.tick()
    engine.submit(Request(seed=99), late.append)
    for _ in range(12):
        engine.tick()
    assert any(isinstance(e, Preview) for e in late)


def test_a_cancelled_request_is_gone_at_the_next_tick(networks, monkeypatch):
    rows = watched(monkeypatch)
    engine, events, others = Engine(networks), [], []
    ticket = engine.submit(Request(num=4, batch=4), events.append)
    engine.submit(Request(num=2, seed=1), others.append)
    engine.tick()
    assert engine.waiting == 6
    ticket.cancel()
    ticket.cancel()
    engine.tick()
    assert rows == [6, 2]
    assert engine.waiting == 2
    assert isinstance(events[-1], Cancelled)
    num = len(events)
    while engine.tick():
        pass
    ticket.cancel()
    assert len(events) == num
    assert isinstance(others[-1], Finished)
    assert engine.waiting == 0


def test_a_full_queue_refuses_and_takes_again(networks):
    engine = Engine(networks, max_waiting=4)
    ticket = engine.submit(Request(num=3), lambda _: None)
    with pytest.raises(QueueFullError, match="3 images wait, 2 more are too many for a queue of 4") as error:
        engine.submit(Request(num=2), lambda _: None)
    assert 1 <= error.value.retry_after <= 60
    ticket.cancel()
    engine.tick()
    engine.submit(Request(num=4), lambda _: None)


def test_what_runs_is_bounded(networks):
    engine = Engine(networks, max_running=8)
    engine.submit(Request(num=200, batch=4), lambda _: None)
    for _ in range(60):
        engine.tick()
        assert sum(len(one.index) for one in engine._schedule.running) <= 8
