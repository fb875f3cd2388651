"""Several owners, the keys of a server, share one engine: its clock, its room and its queue."""

from collections import Counter

import pytest

from cascade.engine import schedule
from cascade.engine.engine import Engine, QueueFullError
from cascade.engine.schedule import Schedule
from cascade.events import Finished
from cascade.request import Request

from .engines import seconds

GOLDEN = (
    "b84 b84 b84 b83 b84 s64 s64 b85 s64 b86 s64 s24 b85 s24 b85 s64 s24 s64 b86 s24 s64 b85 s64 s24 b85 s24 b84 s64 s24 "
    "b84 s64 s24 b84 s64 b84 s64 s23 s64 s23 s64 s23 s64 s23 b84 s64 s24 b84 s24 s62 b84 s24 s62 b84 s24 s64 b81 s21 s64 "
    "b81 s21 s64 b81 s21 s64 b81 s21 s63 s22 s63 s22 s61 s22 s61 s22 s22 s22 s22 s22 s22 s22 s22 s22 s21 s21 s21 s21 "
)


class TestOwners:
    """Several who share an engine; a call takes a second by the clock of the schedule."""

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
        engine, small = Engine(networks, clock=seconds(), batch=dict.fromkeys(networks.names, 4), max_running=16), []
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
        engine = Engine(networks, clock=seconds(), batch=dict.fromkeys(networks.names, 4), max_running=16)
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
        engine, ended = Engine(networks, clock=seconds(), batch=dict.fromkeys(networks.names, 4)), []
        engine.submit(Request(num=4, batch=4), ended.append, owner="bob")
        for k in range(80):
            engine.submit(Request(num=4, batch=4, seed=k), lambda _: None, owner="alice")
            engine.tick()
        assert isinstance(ended[-1], Finished)

    def test_rest_is_owed_for_a_moment_only(self, networks, chosen):
        """Who comes after a thousand calls of another has a few at once, then every second one."""
        engine = Engine(networks, clock=seconds(), batch=dict.fromkeys(networks.names, 4), max_running=16)
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
        engine = Engine(networks, clock=seconds(), batch=dict.fromkeys(networks.names, 4), max_running=16)
        engine.submit(Request(num=64, batch=4), lambda _: None, owner="alice")
        for _ in range(10):
            engine.tick()
        engine.submit(Request(num=64, batch=4), lambda _: None, owner="bob")
        engine.tick()
        running = engine._schedule._images()
        assert running["alice"] == 16
        assert running["bob"] == 8

    def test_one_cannot_fill_the_queue_for_others(self, networks):
        engine = Engine(networks, clock=seconds(), max_waiting=8)
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
        engine = Engine(networks, clock=seconds(), max_waiting=4)
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
        engine = Engine(networks, clock=seconds(), batch={"base_8": 6, "sr_16": 4, "sr_32": 2}, max_running=10)
        sizes = ((12, 4), (3, 3), (1, 1), (7, 2))
        for k, (num, batch) in enumerate(sizes):
            engine.submit(Request(num=num, batch=batch, seed=k), lambda _: None, owner=names[0])
            for _ in range(3):
                engine.tick()
        while engine.tick():
            pass
        assert "".join(f"{name[0]}{name[-1]}{rows.total()} " for name, rows in chosen) == GOLDEN
