"""The speed of hosts: measured when it is asked for, kept up with their calls, and an error for who waits where that fails."""

import pytest
import torch

from cascade.engine.engine import Engine
from cascade.engine.schedule import QueueFullError
from cascade.engine.speeds import NEWEST, Speeds
from cascade.engine.stats import HostStats
from cascade.request import Request
from stages.stage import Stage

from .chains import tiny
from .engines import seconds, watched

LIMIT_S = 30.0


@pytest.fixture(scope="module")
def networks():
    return tiny(8, 16, classes=3)


def of(engine: Engine, **request) -> dict[str, float]:
    return engine.speeds(engine.cascade.resolve(Request(**request)))


def test_each_is_measured_once_in_calls_as_large_as_asked_for(networks, monkeypatch):
    rows = watched(monkeypatch)
    with Engine(networks, clock=seconds()).start() as engine:
        found = of(engine, num=2)  # a call is a second, of 4 rows with guidance, else of 2
        assert rows == [size for size in (rows[0], rows[-1]) for _ in range(4)]
        assert found == {"base_8": 1 / rows[0], "sr_16": 1 / rows[-1]}
        assert of(engine, num=2) == found
        assert len(rows) == 8
        of(engine, num=8)
        assert max(rows) > rows[0]


def test_calls_are_no_larger_than_memory_allows(networks, monkeypatch):
    """Neither than is known before, nor than turns out: then requests keep to it, too."""
    rows, denoise = watched(monkeypatch), Stage.denoise
    with Engine(networks, batch={host.name: 1 for host in networks.hosts}).start() as engine:
        assert all(row_s > 0 for row_s in of(engine, num=2).values())
    assert set(rows) == {1}

    def fits_two(self, x, *more):
        if len(x) > 2:
            raise torch.OutOfMemoryError("no memory")
        return denoise(self, x, *more)

    monkeypatch.setattr(Stage, "denoise", fits_two)
    with Engine(networks, batch={host.name: 16 for host in networks.hosts}).start() as engine:
        assert all(row_s > 0 for row_s in of(engine, num=8).values())
        assert {stats.batch for stats in engine.stats.values()} == {2}


def test_calls_of_its_size_correct_it(networks):
    host = networks.hosts[0]
    speeds = Speeds(seconds())
    speeds.count(host, host.stage.config.size, 4, 8.0)  # nobody has asked
    asked = speeds.ask(host.name, 4)
    assert not asked.done()
    with torch.inference_mode():
        assert speeds.measure({host.name: host}, {host.name: HostStats(batch=4)}, buckets=False)
    assert asked.result() == 1 / 4
    speeds.count(host, host.stage.config.size, 4, 8.0)
    corrected = 1 / 4 + NEWEST * (2 - 1 / 4)
    assert speeds.ask(host.name, 3).result() == corrected  # of as many rows, rounded up
    speeds.count(host, (3, 64, 64), 4, 8.0)
    assert speeds.ask(host.name, 4).result() == corrected
    assert not speeds.wants({host.name: host})


def test_who_waits_gets_an_error_in_words(networks, monkeypatch):
    def fail(self, x, *more):
        raise RuntimeError("a defect")

    with Engine(networks).start() as engine:
        monkeypatch.setattr(Stage, "denoise", fail)
        with pytest.raises(QueueFullError, match="speed cannot be measured now"):
            of(engine)
        monkeypatch.undo()
        assert all(0 < row_s < LIMIT_S for row_s in of(engine).values())  # the engine lives on
    with pytest.raises(QueueFullError, match="the engine stops"):
        of(engine)


def test_an_engine_that_stops_lets_nobody_wait(networks):
    speeds = Speeds(seconds())
    asked = speeds.ask("base_8", 2)
    speeds.close(QueueFullError("the engine stops", 60.0))
    with pytest.raises(QueueFullError):
        asked.result(0)
