"""The engine's threads: one a device, replicas and placed stages, networks in other processes, start and stop."""

import copy
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch

from cascade.engine import batching
from cascade.engine.engine import Engine, QueueFullError
from cascade.engine.host import own_host
from cascade.events import Cancelled, Failed, Finished
from cascade.pipeline import Cascade
from cascade.request import Request
from stages import sampling
from stages.stage import Stage

from .chains import finished, levels_apart
from .engines import elsewhere


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
