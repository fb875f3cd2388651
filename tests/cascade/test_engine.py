"""What the engine promises: pictures that do not depend on company, fair turns, bounded queues, and faults that stay with their
request."""

import copy
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch

from cascade.engine import batching, schedule
from cascade.engine.engine import Engine, QueueFullError
from cascade.engine.host import own_host
from cascade.engine.schedule import Schedule
from cascade.events import Cancelled, Failed, Finished, Preview, StageFinished, StageStarted
from cascade.pipeline import Cascade
from cascade.request import Request
from data.errors import RunError
from stages import sampling
from stages.diffusion.samplers import SAMPLERS, Query
from stages.stage import Stage

from .chains import finished, levels_apart, tiny


@pytest.fixture(scope="module")
def networks():
    """base_8 -> sr_16 -> sr_32, random weights, three classes."""
    return tiny(8, 16, 32, classes=3, num_steps=4)


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
    engine = Engine(networks, batch=dict.fromkeys(networks.names, 2))
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


class TestThreads:
    def test_many_clients_at_once(self, networks):
        """Submitted from eight threads while it ticks: none lost, none doubled, the same pictures as alone."""
        got: dict[int, list] = {}
        ends = [threading.Event() for _ in range(32)]

        def listen(k):
            def listener(event):
                got.setdefault(k, []).append(event)
                if isinstance(event, Finished):
                    ends[k].set()

            return listener

        with Engine(networks).start() as engine:
            threads = [
                threading.Thread(
                    target=lambda first=first: [engine.submit(Request(seed=k), listen(k)) for k in range(first, 32, 8)]
                )
                for first in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert all(end.wait(60) for end in ends)
            assert engine.is_alive
        assert all(sum(isinstance(e, Finished) for e in events) == 1 for events in got.values())
        for k in (0, 13, 31):
            assert levels_apart(finished(got[k]), finished(networks.sample(Request(seed=k)))) <= 1
        assert not engine.is_alive

    def test_a_thread_that_dies_leaves_nobody_waiting(self, networks, monkeypatch):
        monkeypatch.setattr("threading.excepthook", lambda args: None)
        engine, events = Engine(networks).start(), []
        monkeypatch.setattr(Engine, "tick", lambda *_: 1 / 0)
        engine.submit(Request(), events.append)
        engine._threads[0].join(10)
        assert isinstance(events[-1], Failed)
        with pytest.raises(QueueFullError):
            engine.submit(Request(), events.append)
        engine.stop()

    def test_replicas_share_the_work(self, networks, monkeypatch):
        """Another device with a thread of its own: the same pictures, both ticked, at the same time."""
        ticks, denoise = Counter(), Stage.denoise
        both = threading.Barrier(2)

        def meet(self, *given):
            name = threading.current_thread().name
            ticks[name] += 1
            if ticks[name] == 2:
                both.wait(60)  # passes only where the other is in a call, too
            return denoise(self, *given)

        told: list[list] = [[] for _ in range(24)]
        engine = Engine(networks, elsewhere(networks), batch=dict.fromkeys(networks.names, 2))
        assert len(engine.workers) == 2
        monkeypatch.setattr(Stage, "denoise", meet)
        with engine.start():
            for k, events in enumerate(told):
                engine.submit(Request(seed=k), events.append)
            engine.stop(drain_s=60)
        monkeypatch.setattr(Stage, "denoise", denoise)
        assert ticks.keys() == {"engine-0", "engine-1"}
        assert all(isinstance(events[-1], Finished) for events in told)
        for k in (0, 23):
            assert levels_apart(finished(told[k]), finished(networks.sample(Request(seed=k)))) <= 1

    def test_a_device_has_one_thread(self, networks):
        """However many replicas and placed stages meet on it."""
        placed = {"sr_32": "cpu:0"}
        engine = Engine(Cascade(networks.links, place=placed), Cascade(networks.links, device="cpu:0", place=placed))
        assert [set(hosts) for hosts in engine.workers] == [{"base_8", "sr_16"}, {"sr_32", "base_8", "sr_16"}]

    def test_who_has_nothing_to_do_waits(self, networks, monkeypatch):
        """The first stage's thread, while the room is full of chunks that are elsewhere: it would take the lock from the other."""
        ticks, tick = Counter(), Engine.tick
        monkeypatch.setattr(Engine, "tick", lambda self, worker=0: ticks.update([worker]) or tick(self, worker))
        denoise = Stage.denoise
        monkeypatch.setattr(Stage, "denoise", lambda *given: time.sleep(0.01) or denoise(*given))
        apart = Cascade(networks.links, place={"sr_16": "cpu:0", "sr_32": "cpu:0"})
        with Engine(apart, max_running=4).start() as engine:
            engine.submit(Request(num=16, batch=4), lambda _: None)
            engine.stop(drain_s=60)
        assert ticks[0] < 200

    def test_noise_of_one_holds_nobody_up(self, networks, monkeypatch):
        """While one device's thread draws noise, others are accepted, answered by the other and cancelled; what is cancelled
        meanwhile says nothing more."""
        drawing, goes_on, draw = threading.Event(), threading.Event(), sampling.image_noise

        def slow(stage, seed, *more):
            if seed == 7:
                drawing.set()
                assert goes_on.wait(60)
            return draw(stage, seed, *more)

        monkeypatch.setattr(sampling, "image_noise", slow)
        held, other = [], []
        told, ended = threading.Event(), threading.Event()

        def listen(event):
            other.append(event)
            if isinstance(event, Finished):
                ended.set()

        with Engine(networks, elsewhere(networks)).start() as engine:
            ticket = engine.submit(Request(seed=7), lambda event: held.append(event) or told.set())
            assert drawing.wait(60)
            engine.submit(Request(seed=1), listen)
            assert ended.wait(60)
            ticket.cancel()
            assert told.wait(60)
            goes_on.set()
            engine.stop(drain_s=60)
        assert held == [Cancelled()]
        assert levels_apart(finished(other), finished(networks.sample(Request(seed=1)))) <= 1

    def test_stages_on_devices_of_their_own(self, networks):
        """`cpu:0` is the CPU by another name: each stage has a thread, a chunk goes from one to the next."""
        apart = Cascade(networks.links, place={"sr_16": "cpu:0"})
        engine, events = Engine(apart), []
        assert [set(hosts) for hosts in engine.workers] == [{"base_8", "sr_32"}, {"sr_16"}]
        with engine.start():
            engine.submit(Request(num=2), events.append)
            engine.stop(drain_s=60)
        assert torch.equal(finished(events), finished(networks.sample(Request(num=2))))

    def test_networks_in_other_processes(self, networks):
        """Each has a thread, a call that is lost is made again, by whoever is free; here without a weight nothing is missed."""
        link, calls = networks.links[1], Counter()

        def remote(number):
            def answered(asks, batch):
                calls[number] += 1
                if number == 0 and calls[0] % 2:
                    raise ConnectionError("gone")
                return torch.inference_mode()(link.host.answer)(asks, batch=batch)

            return answered

        bare = Cascade(
            [
                replace(link, hosts=own_host(link.name, copy.deepcopy(link.stage).to("meta")))
                for link in networks.links[:2]
            ]
        )
        bare.links[0] = networks.links[0]
        told: list[list] = [[] for _ in range(12)]
        with Engine(bare, elsewhere={"sr_16": [remote(0), remote(1)]}, batch={"sr_16": 2}).start() as engine:
            assert [set(hosts) for hosts in engine.workers] == [{"base_8"}, {"sr_16"}, {"sr_16"}]
            for k, events in enumerate(told):
                engine.submit(Request(seed=k), events.append)
            engine.stop(drain_s=60)
        assert all(isinstance(events[-1], Finished) for events in told)
        assert min(calls[0], calls[1]) > 2
        for k in (0, 11):
            alone = finished(networks.sample(Request(seed=k, last="sr_16")))
            assert levels_apart(finished(told[k]), alone) <= 1

    def test_a_network_that_is_always_lost_fails_its_requests(self, networks):
        def gone(asks, batch):
            raise ConnectionError("gone")

        engine, events, short = Engine(networks, elsewhere={"sr_16": [gone]}), [], []
        with engine.start():
            engine.submit(Request(), events.append)
            engine.submit(Request(last="base_8"), short.append)
            engine.stop(drain_s=60)
        why = "stage sr_16: its network was lost 3 times; try again later"
        assert events[-1] == Failed(stage="sr_16", message=why, code="network_lost")
        assert isinstance(short[-1], Finished)

    def test_prepared_in_the_threads_that_tick(self, networks):
        """The smallest batch that a device found counts; what one raises, `start` raises, and nothing goes on."""
        seen = []

        def prepare(hosts):
            seen.append((threading.current_thread().name, [host.name for host in hosts]))
            return dict.fromkeys(networks.names, 3 + len(seen))

        with Engine(networks, elsewhere(networks), prepare=prepare).start() as engine:
            assert {stage.batch for stage in engine.stats.values()} == {4}
        assert sorted(seen) == [("engine-0", networks.names), ("engine-1", networks.names)]
        with pytest.raises(ZeroDivisionError):
            Engine(networks, prepare=lambda hosts: 1 // 0).start()

    def test_batches_are_measured_at_the_start(self, networks):
        with Engine(networks, prepare=batching.measured).start() as engine:
            assert all(stage.batch in batching.SIZES for stage in engine.stats.values())

    def test_stop_drains_then_refuses(self, networks):
        engine, events = Engine(networks).start(), []
        engine.submit(Request(num=4), events.append)
        engine.stop(drain_s=30)
        assert isinstance(events[-1], Finished)
        with pytest.raises(QueueFullError, match="the engine stops"):
            engine.submit(Request(), lambda _: None)

    def test_stop_without_patience_cancels(self, networks):
        engine, events = Engine(networks).start(), []
        engine.submit(Request(num=256), events.append)
        began = time.monotonic()
        engine.stop()
        assert isinstance(events[-1], Cancelled)
        assert time.monotonic() - began < 5


GOLDEN = (
    "b84 b84 b84 b83 b84 s64 s64 b85 s64 b86 s64 s24 b85 s24 b85 s64 s24 s64 b86 s24 s64 b85 s64 s24 b85 s24 b84 s64 s24 "
    "b84 s64 s24 b84 s64 b84 s64 s23 s64 s23 s64 s23 s64 s23 b84 s64 s24 b84 s24 s62 b84 s24 s62 b84 s24 s64 b81 s21 s64 "
    "b81 s21 s64 b81 s21 s64 b81 s21 s63 s22 s63 s22 s61 s22 s61 s22 s22 s22 s22 s22 s22 s22 s22 s22 s21 s21 s21 s21 "
)


class TestOwners:
    """Several who share an engine; a call takes a second by the clock of the schedule."""

    @pytest.fixture(autouse=True)
    def _seconds(self, monkeypatch):
        answered = Schedule.answered
        monkeypatch.setattr(
            Schedule, "answered", lambda self, chosen, answers, seconds: answered(self, chosen, answers, 1.0)
        )

    @pytest.fixture
    def chosen(self, monkeypatch) -> list[tuple[str, Counter]]:
        """Stage and rows by owner of each call."""
        calls, choose = [], Schedule.choose

        def watched(self, names):
            found = choose(self, names)
            if found:
                rows = Counter()
                for one in found:
                    rows[one.ticket.owner] += one.rows
                calls.append((found[0].host.name, rows))
            return found

        monkeypatch.setattr(Schedule, "choose", watched)
        return calls

    def test_a_large_request_of_one_delays_a_small_one_of_another_by_a_call(self, networks, monkeypatch):
        monkeypatch.setattr(schedule, "OWED_S", 20.0)  # seconds: the small one has 12 calls
        engine, small = Engine(networks, batch=dict.fromkeys(networks.names, 4), max_running=16), []
        engine.submit(Request(num=64, batch=4), lambda _: None, owner="alice")
        for k in range(8):
            engine.submit(Request(num=8, batch=4, seed=k), lambda _: None, owner="alice")
        for _ in range(50):
            engine.tick()
        engine.submit(Request(num=1, seed=99), small.append, owner="bob")
        for _ in range(12 + 1):
            engine.tick()
        assert isinstance(small[-1], Finished)

    def test_owners_have_as_much_of_the_clock_however_much_they_ask_for(self, networks, chosen):
        engine = Engine(networks, batch=dict.fromkeys(networks.names, 4), max_running=16)
        for k in range(30):
            engine.submit(Request(num=8, batch=4, seed=k), lambda _: None, owner="alice")
        engine.submit(Request(num=40, batch=4), lambda _: None, owner="bob")
        engine.submit(Request(num=40, batch=4, last="base_8"), lambda _: None, owner="carol")
        for _ in range(90):
            engine.tick()
        shares = Counter()
        for _, rows in chosen:
            for owner, num in rows.items():
                shares[owner] += num / rows.total()
        assert max(shares.values()) - min(shares.values()) <= 3, shares

    def test_who_never_ceases_to_come_does_not_keep_another_from_his_end(self, networks):
        engine, ended = Engine(networks, batch=dict.fromkeys(networks.names, 4)), []
        engine.submit(Request(num=4, batch=4), ended.append, owner="bob")
        for k in range(80):
            engine.submit(Request(num=4, batch=4, seed=k), lambda _: None, owner="alice")
            engine.tick()
        assert isinstance(ended[-1], Finished)

    def test_rest_is_owed_for_a_moment_only(self, networks, chosen):
        """Who comes after a thousand calls of another has a few at once, then every second one."""
        engine = Engine(networks, batch=dict.fromkeys(networks.names, 4), max_running=16)
        engine.submit(Request(num=4, batch=4), lambda _: None, owner="bob")
        engine.submit(Request(num=400, batch=4), lambda _: None, owner="alice")
        for _ in range(1000):
            engine.tick()
        del chosen[:]
        engine.submit(Request(num=40, batch=4), lambda _: None, owner="bob")
        for _ in range(40):
            engine.tick()
        assert 20 <= sum(rows["bob"] / rows.total() for _, rows in chosen) <= 20 + schedule.OWED_S

    def test_room_for_what_runs_is_shared(self, networks):
        engine = Engine(networks, batch=dict.fromkeys(networks.names, 4), max_running=16)
        engine.submit(Request(num=64, batch=4), lambda _: None, owner="alice")
        for _ in range(10):
            engine.tick()
        engine.submit(Request(num=64, batch=4), lambda _: None, owner="bob")
        engine.tick()
        running = engine._schedule._images()
        assert running["alice"] == 16
        assert running["bob"] == 8

    def test_one_cannot_fill_the_queue_for_others(self, networks):
        engine = Engine(networks, max_waiting=8)
        for k in range(2):
            engine.submit(Request(num=4, seed=k), lambda _: None, owner="alice")
        for owner, num in (("bob", 4), ("carol", 6)):
            engine.submit(Request(num=num), lambda _: None, owner=owner)
            for full in ("alice", owner):
                with pytest.raises(QueueFullError, match="too many for a queue of 8"):
                    engine.submit(Request(num=1), lambda _: None, owner=full)
        with pytest.raises(QueueFullError, match="9 more are too many for a queue of 8"):
            engine.submit(Request(num=9), lambda _: None, owner="dave")
        with pytest.raises(QueueFullError, match="0 images of this key wait, 3 more are too many for its 2"):
            engine.submit(Request(num=3), lambda _: None, owner="dave", most=2)
        assert engine.waiting == 18
        engine.stop()
        assert engine.waiting == 0

    def test_a_full_queue_refuses_before_anything_is_encoded(self, networks, monkeypatch):
        engine = Engine(networks, max_waiting=4)
        engine.submit(Request(num=4), lambda _: None)
        monkeypatch.setattr(type(engine.cascade.conditions), "of", lambda *_: 1 / 0)
        with pytest.raises(QueueFullError):
            engine.submit(Request(num=1, labels=(1,)), lambda _: None)
        with pytest.raises(ZeroDivisionError):
            engine.submit(Request(num=1), lambda _: None, owner="bob")
        assert engine.waiting == 4

    @pytest.mark.parametrize("names", [("",), ("alice",)])
    def test_the_turns_of_a_single_owner_are_as_they_were(self, networks, chosen, names):
        """Recorded before owners had turns."""
        engine = Engine(networks, batch={"base_8": 6, "sr_16": 4, "sr_32": 2}, max_running=10)
        sizes = ((12, 4), (3, 3), (1, 1), (7, 2))
        for k, (num, batch) in enumerate(sizes):
            engine.submit(Request(num=num, batch=batch, seed=k), lambda _: None, owner=names[0])
            for _ in range(3):
                engine.tick()
        while engine.tick():
            pass
        assert "".join(f"{name[0]}{name[-1]}{rows.total()} " for name, rows in chosen) == GOLDEN
