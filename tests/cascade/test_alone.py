"""The short path of one request: an engine that has it alone makes the same calls, events and bits, also where memory ends."""

import dataclasses

import pytest
import torch

from cascade.engine.engine import Engine
from cascade.events import Event, StageStarted
from cascade.request import Request
from data.errors import RunError
from stages.stage import Stage

from .chains import tiny
from .engines import REQUESTS, run, watched


@pytest.fixture(scope="module")
def networks():
    """base_8 -> sr_16 -> sr_32, random weights, three classes."""
    return tiny(8, 16, 32, classes=3, num_steps=3)


def same(one: Event, other: Event) -> bool:
    return type(one) is type(other) and all(
        torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs
        for mine, theirs in ((getattr(each, field.name) for each in (one, other)) for field in dataclasses.fields(one))
    )


CASES = (*REQUESTS, Request(num=5, seed=5, batch=2, labels=(0, 2)), Request(num=4, labels=(1,), pick=(3, 1), batch=2))


@pytest.mark.parametrize("request_", CASES)
def test_an_engine_makes_the_same_of_it(networks, monkeypatch, request_):
    rows = watched(monkeypatch)
    alone = list(networks.sample(request_))
    calls = rows.copy()
    rows.clear()
    together = run(Engine(networks, max_running=1, batch=dict.fromkeys(networks.names, 2 * request_.batch)), request_)[
        0
    ]
    assert rows == calls
    assert len(alone) == len(together)
    assert all(same(*pair) for pair in zip(alone, together, strict=True))


def test_memory_that_does_not_suffice_halves_the_calls(networks, monkeypatch, caplog):
    request = Request(num=4, seed=1, labels=(0,), settings={"base_8": {"guidance_scale": 2.0}})
    whole = list(networks.sample(request))
    rows, denoise = [], Stage.denoise

    def small(self, x, *more):
        rows.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("no memory")
        return denoise(self, x, *more)

    monkeypatch.setattr(Stage, "denoise", small)
    halves = list(networks.sample(request))
    assert rows[:8] == [8, 8, 8, 4, 2, 2, 2, 2]  # at most 32, 16, 8, 4 and 2 of 8 rows a call
    assert caplog.text.count("out of memory") == 4 + 4 + 4
    assert [type(event) for event in halves] == [type(event) for event in whole]
    apart = [
        (one.images.int() - other.images.int()).abs().max()
        for one, other in zip(whole, halves, strict=True)
        if hasattr(one, "images")
    ]
    assert max(apart) <= 1


def test_a_single_image_that_memory_does_not_hold_is_told(networks, monkeypatch):
    def none(self, x, *more):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(Stage, "denoise", none)
    with pytest.raises(RunError, match="stage base_8: out of memory for a single image; ask for a smaller one"):
        list(networks.sample(Request()))


def test_nothing_is_computed_before_it_is_asked_for(networks, monkeypatch):
    rows = watched(monkeypatch)
    events = networks.sample(Request())
    assert isinstance(next(events), StageStarted)
    assert rows == []
    next(events)
    assert rows == [1]
    events.close()
    assert rows == [1]
