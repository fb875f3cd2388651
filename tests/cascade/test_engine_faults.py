"""Faults of one request in the engine, out of memory, NaN or an exception, fail that request only."""

from dataclasses import replace

import pytest
import torch

from cascade.engine.engine import Engine
from cascade.events import Failed, Finished, Preview, StageFinished
from cascade.request import Request
from data.errors import RunError
from stages import sampling
from stages.diffusion.samplers import SAMPLERS, Query
from stages.stage import Stage

from .engines import run


def test_out_of_memory_halves_the_batch_and_every_request_is_served(networks, monkeypatch):
    denoise = Stage.denoise

    def small_memory(self, x, *more):
        if len(x) > 3:
            raise torch.OutOfMemoryError("no memory")
        return denoise(self, x, *more)

    monkeypatch.setattr(Stage, "denoise", small_memory)
    engine = Engine(networks, batch=dict.fromkeys(networks.names, 16))
    told = run(engine, *(Request(num=4, seed=k, batch=4) for k in range(3)))
    assert all(isinstance(events[-1], Finished) for events in told)
    assert {stats.batch for stats in engine.stats.values()} == {2}


def test_an_image_that_does_not_fit_in_memory_fails_alone(networks, monkeypatch):
    denoise = Stage.denoise

    def no_memory(self, x, *more):
        if x.shape[-1] > 64:  # 64 px and the continuation on both sides
            raise torch.OutOfMemoryError("no memory")
        return denoise(self, x, *more)

    monkeypatch.setattr(Stage, "denoise", no_memory)
    engine = Engine(networks)
    wide, usual = run(engine, Request(size=(32, 64)), Request())
    assert isinstance(wide[-1], Failed)
    assert "stage sr_32: out of memory for a single image" in wide[-1].message
    assert wide[-1].code == "out_of_memory"
    assert isinstance(usual[-1], Finished)
    assert {stats.batch for stats in engine.stats.values()} == {16}  # who asks for usual sizes is served as before


def test_out_of_memory_between_calls_fails_its_request_by_name(networks, monkeypatch):
    def no_memory(stage, seed, *more):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(sampling, "image_noise", no_memory)
    events = run(Engine(networks), Request())[0]
    assert isinstance(events[-1], Failed)
    assert "out of memory" in events[-1].message
    assert events[-1].code == "out_of_memory"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_single_nan_or_infinity_is_found(networks, monkeypatch, value):
    denoise = Stage.denoise

    def spoiled(self, x, *given):
        answer = denoise(self, x, *given)
        x0_hat = answer.x0_hat.clone()
        x0_hat[0, 0, 0, 0] = value
        return replace(answer, x0_hat=x0_hat)

    monkeypatch.setattr(Stage, "denoise", spoiled)
    with pytest.raises(RunError, match="stage base_8: NaN or infinity in x0_hat at call 1 of 4"):
        list(networks.sample(Request(labels=(1,))))


def test_nan_fails_its_request_and_no_other(networks, monkeypatch):
    denoise = Stage.denoise

    def broken(self, x, sigma, cond, *more):
        answer = denoise(self, x, sigma, cond, *more)
        is_bad = (cond.value("label") == 2)[:, None, None, None]
        return replace(answer, x0_hat=torch.where(is_bad, torch.nan, answer.x0_hat))

    monkeypatch.setattr(Stage, "denoise", broken)
    bad, good = run(Engine(networks), Request(labels=(2,)), Request(labels=(1,)))
    assert isinstance(bad[-1], Failed)
    assert "stage base_8: NaN or infinity in x0_hat at call 1 of 4" in bad[-1].message
    assert bad[-1].code == "not_finite"
    assert not any(isinstance(e, Preview | StageFinished) for e in bad)
    assert isinstance(good[-1], Finished)


def test_a_listener_that_raises_is_cancelled_and_disturbs_nobody(networks, caplog):
    engine, events = Engine(networks), []
    engine.submit(Request(), lambda _: 1 / 0)
    engine.submit(Request(seed=1), events.append)
    while engine.tick():
        pass
    assert isinstance(events[-1], Finished)
    assert engine.waiting == 0
    assert "a listener failed" in caplog.text


@pytest.mark.parametrize("calls", [0, 2])
def test_a_sampler_that_raises_fails_its_request_only(networks, monkeypatch, calls):
    def broken(x, sigmas):
        for _ in range(calls):
            x = (yield Query(x, torch.ones(len(x)))).x0_hat
        raise ZeroDivisionError

    monkeypatch.setitem(SAMPLERS, "heun", replace(SAMPLERS["heun"], function=broken))
    wrong, right = run(Engine(networks), Request(num=5, settings={"base_8": {"sampler": "heun"}}), Request(num=2))
    assert wrong[-1] == Failed(stage="base_8", message="stage base_8: an error while sampling", code="internal")
    assert isinstance(right[-1], Finished)
