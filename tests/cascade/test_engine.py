"""The engine's calls: shared by requests, bounded in size, and no picture depends on company."""

from dataclasses import replace

import pytest
import torch

from cascade.engine.engine import Engine
from cascade.events import Finished, Preview, StageFinished, StageStarted
from cascade.request import Request

from .chains import finished, levels_apart
from .engines import REQUESTS, run, watched


def test_company_changes_nothing(networks):
    """Other seeds, guidance, samplers, noise levels and sizes in the same calls: each request has the pictures it has alone."""
    together = run(Engine(networks), *REQUESTS)
    for request, events in zip(REQUESTS, together, strict=True):
        assert levels_apart(finished(events), finished(networks.sample(request))) <= 1


def test_calls_are_shared(networks, monkeypatch):
    rows = watched(monkeypatch)
    run(Engine(networks, batch=dict.fromkeys(networks.names, 32)), *(Request(num=1, seed=k) for k in range(16)))
    assert rows == [16] * 12


def test_a_call_has_at_most_the_batch_of_its_stage(networks, monkeypatch):
    rows = watched(monkeypatch)
    engine = Engine(networks, batch={"base_8": 6, "sr_16": 3, "sr_32": 1})
    run(engine, *(Request(num=1, seed=k) for k in range(7)), Request(num=5, batch=5))
    assert max(rows) == 6
    assert {name: stats.batch for name, stats in engine.stats.items()} == {"base_8": 6, "sr_16": 3, "sr_32": 1}
    assert sum(rows) == 3 * 4 * 12


def test_powers_of_two_for_compiled_networks(networks, monkeypatch):
    rows = watched(monkeypatch)
    events = run(Engine(networks, buckets=True), Request(num=5, seed=1, batch=5))[0]
    assert set(rows) == {8}
    assert levels_apart(finished(events), finished(networks.sample(Request(num=5, seed=1)))) <= 1


def test_events_of_a_request_in_order(networks):
    for request, events in zip(REQUESTS, run(Engine(networks), *REQUESTS), strict=True):
        assert isinstance(events[-1], Finished)
        assert events[-1].num == request.total
        for link in networks.links:
            of_stage = [e for e in events[:-1] if e.stage == link.name]
            assert isinstance(of_stage[0], StageStarted)
            assert isinstance(of_stage[-1], StageFinished)
            previews = [e.step for e in of_stage if isinstance(e, Preview)]
            assert previews == list(range(1, of_stage[0].nfe + 1))


def test_rows_of_a_call_go_with_the_area(networks, monkeypatch):
    rows = watched(monkeypatch)
    engine = Engine(networks, batch=dict.fromkeys(networks.names, 8), max_running=16)
    large = Request(num=12, size=(64, 64))
    assert engine.fitted(networks.resolve(replace(large, batch=4))).request.batch == 2
    for num in (4, 12):
        guided = Request(num=num, batch=num, settings={"base_8": {"guidance_scale": 3.0}})
        assert engine.fitted(networks.resolve(guided)).request.batch == 4
    engine.submit(engine.fitted(networks.resolve(large)), lambda _: None)
    while engine.tick():
        assert sum(len(one.index) for one in engine._schedule.running) <= 4
    assert max(rows) == 2


def test_with_and_without_a_class_in_one_call(networks, monkeypatch):
    rows = watched(monkeypatch)
    run(Engine(networks), Request(num=1, labels=(1,)), Request(num=1))
    assert rows == [2] * 12


def test_held_pictures_refined_are_the_pictures_of_an_undisturbed_request(networks):
    """Hold at the first stage, pick two of six, refine only those."""
    request = Request(num=3, seed=5, labels=(0, 1))
    whole = finished(networks.sample(request))
    held = finished(run(Engine(networks), Request(num=3, seed=5, labels=(0, 1), last="base_8"))[0])
    assert held.shape == (6, 3, 8, 8)
    pick = (4, 1)
    refined = Request(num=3, seed=5, labels=(0, 1), first="sr_16", low_res=held[list(pick)], pick=pick)
    events = run(Engine(networks), refined)[0]
    assert [e.index for e in events if isinstance(e, StageFinished)] == [pick, pick]
    assert levels_apart(finished(events), whole[list(pick)]) <= 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pick": (6,)}, "pick 6 is out of range; 0 to 5 are there"),
        ({"pick": (1, 1), "low_res": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "names an image twice"),
        ({"pick": (1, 2)}, "1 pictures for 2 picked images"),
        ({"first": "sr_61"}, "no stage 'sr_61'.*did you mean sr_16"),
        ({"first": "sr_32", "last": "sr_16"}, "sr_32 comes after sr_16"),
    ],
)
def test_picks_that_cannot_be(networks, options, says):
    low_res = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=says):
        networks.resolve(Request(**({"num": 6, "first": "sr_16", "low_res": low_res} | options)))
