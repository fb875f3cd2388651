"""Work of another kind than painting: the mean of x0_hat over noise, in an engine beside requests and without one."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from cascade.engine.alone import events_of
from cascade.engine.engine import Engine
from cascade.engine.host import Host, addressed
from cascade.engine.work import Chunk
from cascade.events import Event, Failed, Finished, Preview
from cascade.link import Link
from cascade.pipeline import Cascade
from cascade.request import Request
from data.batch import Cond
from stages.ask import OWN, Ask
from stages.diffusion.samplers import Query
from stages.sampling import noise_of

from .chains import finished, levels_apart, pictures, tiny
from .engines import run, watched
from .test_alone import same

SIGMA = 0.7


@dataclass(frozen=True, kw_only=True)
class Estimated(Event):
    """mean (b, c, h, w): of x0_hat."""

    index: tuple[int, ...]
    mean: Tensor


@dataclass(frozen=True, kw_only=True)
class MeanOverNoise:
    """x0_hat of pictures (n, c, h, w) in [-1, 1] noised to SIGMA, over so many draws; it shows nothing on its way."""

    link: Link
    pictures: Tensor
    draws: int = 3
    batch: int = 2
    host: Host | None = None

    @property
    def first(self) -> str:
        return self.link.host.name

    @property
    def total(self) -> int:
        return len(self.pictures)

    @property
    def weight(self) -> int:
        return 1

    @property
    def num_chunks(self) -> int:
        return -(-self.total // self.batch)

    def chunk(self, number: int) -> tuple[int, ...]:
        return tuple(range(self.total)[number * self.batch : (number + 1) * self.batch])

    def steps(self, index: tuple[int, ...], emit: Callable[[Event], None]) -> Chunk:
        rows, total = torch.tensor(index), torch.zeros(())
        noise, hosts = noise_of(self.link.name, 0, rows, "cpu"), {OWN: self.host or self.link.host}
        for draw in range(self.draws):
            x0 = self.pictures[rows]
            query = Query(x0 + SIGMA * noise(f"mean/{draw}", x0.shape), torch.full((len(rows),), SIGMA))
            (answer,) = yield addressed([(OWN, Ask(query=query, cond=Cond.empty(len(rows))))], hosts)
            total = total + answer.x0_hat
        emit(Estimated(index=index, mean=total / self.draws))

    def finished(self) -> Event:
        return Finished(num=self.total, nfe=self.draws * self.num_chunks)


@pytest.fixture(scope="module")
def networks() -> Cascade:
    return tiny(8, 16, num_steps=3)


def mean_of(model: Cascade, **options) -> MeanOverNoise:
    return MeanOverNoise(link=model.links[0], pictures=pictures(3, 8), **options)


def test_without_an_engine_and_in_one_bits_are_equal(networks):
    work, told = mean_of(networks), []
    engine = Engine(networks, max_running=1, batch=dict.fromkeys(networks.names, 4))
    engine.run(work, told.append)
    while engine.tick():
        pass
    alone = list(events_of(work, 2))
    assert [type(each) for each in alone] == [Estimated, Estimated, Finished]
    assert all(same(*pair) for pair in zip(alone, told, strict=True))
    stats = engine.stats["base_8"]
    assert (stats.calls, stats.rows, stats.images) == (6, 9, 3)
    x0, (stage, sigma) = work.pictures[:2], (networks.links[0].stage, torch.full((2,), SIGMA))
    noise = noise_of("base_8", 0, torch.arange(2), "cpu")
    draws = [stage.denoise(x0 + SIGMA * noise(f"mean/{k}", x0.shape), sigma, Cond.empty(2)).x0_hat for k in range(3)]
    torch.testing.assert_close(alone[0].mean, torch.stack(draws).mean(0))


def test_it_shares_calls_with_paintings_and_changes_none(networks, monkeypatch):
    request, painted, told = Request(num=2, seed=1), [], []
    before = finished(networks.sample(request))
    rows = watched(monkeypatch)
    engine = Engine(networks)
    engine.submit(request, painted.append)
    engine.run(mean_of(networks, batch=3), told.append)
    while engine.tick():
        pass
    assert rows[0] == 2 + 3
    assert levels_apart(finished(painted), before) <= 1
    (alone, _), (beside, _) = list(events_of(mean_of(networks, batch=3), 3)), told
    torch.testing.assert_close(beside.mean, alone.mean, rtol=0, atol=1e-5)


def test_work_that_shows_nothing_is_not_first_for_ever(networks):
    engine, late = Engine(networks, batch=dict.fromkeys(networks.names, 1)), []
    engine.run(mean_of(networks, draws=100, batch=1), lambda event: None)
    for _ in range(10):
        engine.tick()
    engine.submit(Request(), late.append)
    engine.tick()
    assert any(isinstance(event, Preview) for event in late)


@pytest.mark.parametrize("batch", [1, 4])
def test_memory_that_does_not_suffice_halves_its_calls_too(networks, monkeypatch, batch):
    from stages.stage import Stage

    rows, denoise = [], Stage.denoise

    def small(self, x, *more):
        if len(x) > 1:
            raise torch.OutOfMemoryError("no memory")
        rows.append(len(x))
        return denoise(self, x, *more)

    before = next(events_of(mean_of(networks), batch)).mean
    monkeypatch.setattr(Stage, "denoise", small)
    torch.testing.assert_close(next(events_of(mean_of(networks), batch)).mean, before, rtol=0, atol=1e-5)
    assert rows == [1] * 6


def test_a_host_that_nobody_has_ends_the_work_alone(networks, caplog):
    stranger = Host(name="elsewhere", stage=networks.links[0].stage)
    engine, painted, told = Engine(networks), [], []
    engine.run(mean_of(networks, host=stranger), told.append)
    engine.submit(Request(), painted.append)
    with caplog.at_level(logging.ERROR):
        while engine.tick():
            pass
    assert told == [Failed(stage="base_8", message="stage base_8: an error while sampling", code="internal")]
    assert "it asks elsewhere, which nobody has here" in caplog.text
    assert isinstance(painted[-1], Finished)
    assert engine.waiting == 0
    other = MeanOverNoise(link=tiny(16).links[0], pictures=pictures(1, 16))
    with pytest.raises(ValueError, match="work: no host 'base_16', there are base_8, sr_16"):
        engine.run(other, told.append)


def test_paintings_run_through_the_same_door(networks):
    request = Request(num=3, seed=2, batch=2)
    engine, told = Engine(networks), []
    engine.run(networks.painting(request), told.append)
    while engine.tick():
        pass
    assert all(same(*pair) for pair in zip(run(Engine(networks), request)[0], told, strict=True))
    assert all(
        same(*pair) for pair in zip(networks.sample(request), events_of(networks.painting(request), 2), strict=True)
    )
