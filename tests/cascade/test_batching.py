"""The start-up measurement: the choice it makes of known timings, memory that ends, and compiled networks in the engine."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from cascade.engine import batching
from cascade.engine.engine import Engine
from cascade.events import Finished
from cascade.request import Request
from stages.stage import Stage

from .chains import finished, levels_apart, tiny

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0], 32),  # bound by the start of operations
        ([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], 1),  # bound by arithmetic
        ([1.0, 1.5, 2.4, 6.0, 13.0, 30.0], 4),  # the cache ends
        ([1.0, 2.2, 2.0, 3.9, 8.0, 16.0], 4),  # a bad size on the way, a gain too small at the end
        ([1.0, 1.2], 2),  # memory ends
    ],
)
def test_the_size_that_is_fastest_an_image(monkeypatch, seconds, best):
    monkeypatch.setattr(batching, "timed", lambda host: zip(batching.SIZES, seconds, strict=False))
    assert batching.best_batch(None) == best


def test_sizes_beyond_two_that_are_no_faster_are_not_met(monkeypatch):
    """Each costs a start its time, and a compiled network the memory of a graph."""
    met = []

    def timed(host):
        for rows in batching.SIZES:
            met.append(rows)
            yield rows, float(rows)

    monkeypatch.setattr(batching, "timed", timed)
    assert batching.best_batch(None) == 1
    assert met == [1, 2, 4]


def test_memory_that_ends_is_no_error(monkeypatch):
    denoise = Stage.denoise

    def small(self, x, *more):
        if len(x) > 4:
            raise torch.OutOfMemoryError
        return denoise(self, x, *more)

    monkeypatch.setattr(Stage, "denoise", small)
    chain = tiny(8, 16, classes=3)
    assert all(rows <= 4 for rows in batching.measured(chain.hosts).values())


EVERY = """
import torch
from torch._dynamo.utils import counters
from cascade.engine import batching
from cascade.engine.engine import Engine
from cascade.pipeline import Cascade
from tests.cascade.chains import tiny

compile_ = torch.nn.Module.compile
torch.nn.Module.compile = lambda self, **_: compile_(self, backend="eager", dynamic=False)  # shapes are fixed, as on a GPU
batching.GAIN = 0.0  # each size is met
chains = tiny(8, 16, 32), Cascade(tiny(8, 16, 32, classes=3).links, device="cpu:0")  # alike, one had the other's graphs
with Engine(*chains, prepare=batching.compiled).start():
    print(counters["stats"]["unique_graphs"], 2 * 3 * len(batching.SIZES))
"""


@pytest.mark.matrix
def test_every_stage_of_every_device_is_compiled():
    """Dynamo counts the graphs of all stages together, and whether it compiles is said for all threads at once. In a process of its
    own: who has compiled cannot fork."""
    run = [sys.executable, "-c", EVERY]
    done = subprocess.run(
        run, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stderr
    made, wanted = done.stdout.split()[-2:]
    assert made == wanted


@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_compiled_networks_in_the_engine():
    """The same pictures; nothing is compiled once requests are served, not even for a size that was not met before."""
    chain, plain = tiny(8, 16, num_steps=2), tiny(8, 16, num_steps=2)
    try:
        with Engine(chain, prepare=batching.compiled).start() as engine:
            before = counters["stats"]["unique_graphs"]
            assert before > 0
            for request in (Request(num=3, seed=5), Request(num=1, seed=6, size=(16, 32))):
                events: list = []
                ended = threading.Event()
                engine.submit(
                    request, lambda e, to=events, end=ended: (to.append(e), isinstance(e, Finished) and end.set())
                )
                assert ended.wait(60)
                assert levels_apart(finished(events), finished(plain.sample(request))) <= 1
            assert counters["stats"]["unique_graphs"] == before
    finally:
        torch.compiler.set_stance("default")
