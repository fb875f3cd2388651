"""Requests for engines, engines that tick until all is done, and what their calls had."""

import itertools
from collections.abc import Callable

from cascade.engine.engine import Engine
from cascade.pipeline import Cascade
from cascade.request import Request
from stages.stage import Stage


def run(engine: Engine, *requests: Request) -> list[list]:
    """The events of each, all submitted before the first tick."""
    told: list[list] = [[] for _ in requests]
    for request, events in zip(requests, told, strict=True):
        engine.submit(request, events.append)
    while engine.tick():
        pass
    return told


def elsewhere(cascade: Cascade) -> Cascade:
    """The same networks on the CPU by another name, which has a thread of its own."""
    return Cascade(cascade.links, device="cpu:0")


def watched(monkeypatch) -> list[int]:
    """Rows of every network call from now on."""
    rows, denoise = [], Stage.denoise
    monkeypatch.setattr(Stage, "denoise", lambda self, x, *more: rows.append(len(x)) or denoise(self, x, *more))
    return rows


REQUESTS = (
    Request(num=3, seed=1, labels=(0,)),
    Request(num=2, seed=2, labels=(1, 2), settings={"base_8": {"guidance_scale": 3.0}}),
    Request(num=1, seed=3, labels=(2,), settings={"sr_16": {"aug_sigma": 0.7, "sampler": "heun"}}),
    Request(num=2, seed=4, labels=(1,), size=(32, 64)),
)


def seconds() -> Callable[[], float]:
    """A clock for an engine that looks at it before and after each call: every call takes a second."""
    return map(float, itertools.count()).__next__
