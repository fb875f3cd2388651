"""Which rows reach the networks, in which calls and in which order: with guidance, in company, and where memory ends."""

from itertools import groupby

import pytest
import torch

from cascade.engine.engine import Engine
from cascade.engine.schedule import Schedule
from cascade.events import Finished, Preview
from cascade.pipeline import Cascade
from cascade.request import Request
from data.errors import RunError
from stages.stage import Stage
from tests.worlds import Asked

from .chains import finished, ideal, levels_apart, pictures, tiny

LABELS = torch.arange(12) % 3


@pytest.fixture
def model() -> Cascade:
    """base_8 -> sr_16 over a finite set of three classes."""
    return ideal(pictures(12, 16), (8, 16), labels=LABELS, num_steps=3, sigma_max=5.0, sigma_min=0.02)


@pytest.fixture
def calls(model) -> list[Asked]:
    """Of both stages, in order."""
    found: list[Asked] = []
    for link in model.links:
        link.stage.asked = found
    return found


def run(engine: Engine, *requests: Request) -> None:
    for request in requests:
        engine.submit(request, lambda _: None)
    while engine.tick():
        pass


def scaled(scale: float, **more: object) -> dict[str, dict[str, object]]:
    return {"base_8": {"guidance_scale": scale, **more}}


def company(last: str = "base_8") -> tuple[Request, ...]:
    """Two guided requests and one that is not between them, each from a level of its own."""
    return (
        Request(num=2, labels=(1,), seed=1, settings=scaled(3.0, sigma_max=5.0), last=last),
        Request(num=1, labels=(0,), seed=2, settings=scaled(1.0, sigma_max=4.0), last=last),
        Request(num=1, labels=(2,), seed=3, settings=scaled(2.0, sigma_max=3.0), last=last),
    )


class TestRows:
    def test_conditional_rows_of_all_come_first_then_the_null_rows_of_the_guided(self, model, calls):
        run(Engine(model, batch={"base_8": 16, "sr_16": 16}), *company())
        assert len(calls) == 3
        first = calls[0]
        assert first.cond.parts["label"].value.tolist() == [1, 1, 0, 2, 1, 1, 2]
        assert first.cond.parts["label"].keep.tolist() == [True] * 4 + [False] * 3
        assert first.sigma.tolist() == [5, 5, 4, 3, 5, 5, 3]
        assert torch.equal(first.x[4:], first.x[[0, 1, 3]])
        assert all(call.cond.parts["label"].keep.tolist() == first.cond.parts["label"].keep.tolist() for call in calls)

    def test_the_low_res_of_a_null_row_is_its_conditional_row_s(self, model, calls):
        settings = {"sr_16": {"guidance_scale": 2.0, "aug_sigma": 0.5}}
        run(Engine(model), Request(num=2, labels=(1,), settings=settings), Request(num=1, labels=(2,)))
        above = [call for call in calls if call.low_res is not None]
        assert len(above) == 3
        for call in above:
            assert call.cond.parts["label"].keep.tolist() == [True] * 3 + [False] * 2
            assert torch.equal(call.low_res[3:], call.low_res[:2])
            assert call.aug_sigma.tolist() == [0.5, 0.5, 0.0, 0.5, 0.5]

    def test_a_call_is_filled_by_whole_chunks(self, model, calls):
        """Both rows of a guided picture count."""
        run(Engine(model, batch={"base_8": 4, "sr_16": 4}), *company())
        assert [call.cond.parts["label"].value.tolist() for call in calls[:2]] == [[1, 1, 1, 1], [0, 2, 2]]
        assert [call.cond.parts["label"].keep.tolist() for call in calls[:2]] == [
            [True, True, False, False],
            [True, True, False],
        ]

    def test_a_chunk_that_is_larger_than_a_call_is_cut_in_the_same_order(self, model, calls):
        run(Engine(model, batch={"base_8": 3, "sr_16": 3}), company()[0])
        assert [call.cond.parts["label"].keep.tolist() for call in calls] == [[True, True, False], [False]] * 3


class TestOrder:
    def test_chunk_after_chunk_stage_after_stage_level_after_level(self, model, calls):
        """Heun asks twice at each level but the first; outside of the interval there are no null rows."""
        settings = {
            "base_8": {"guidance_scale": 2.0, "guidance_interval": [0.1, 3.0]},
            "sr_16": {"sampler": "heun", "num_steps": 2},
        }
        list(model.sample(Request(num=3, labels=(1,), batch=2, settings=settings)))
        levels = {8: model.links[0].settings.sigmas, 16: torch.tensor([5.0, 0.02])}
        told = [
            (call.x.shape[-1], int((levels[call.x.shape[-1]] - call.sigma[0].item()).abs().argmin()), len(call.x))
            for call in calls
        ]
        assert told == [
            *((8, 0, 2), (8, 1, 4), (8, 2, 2), (16, 0, 2), (16, 1, 2), (16, 1, 2)),
            *((8, 0, 1), (8, 1, 2), (8, 2, 1), (16, 0, 1), (16, 1, 1), (16, 1, 1)),
        ]


class TestTurns:
    """Who is answered, where each has two chunks; a call takes a second by the clock of the schedule."""

    @pytest.fixture(autouse=True)
    def _seconds(self, monkeypatch):
        answered = Schedule.answered
        monkeypatch.setattr(
            Schedule, "answered", lambda self, chosen, found, spent_s: answered(self, chosen, found, 1.0)
        )

    def told(self, model: Cascade, owners: str, last: str = "base_8") -> str:
        """The previews in their order: whose, of which chunk, and the first letter of the stage where there are two."""
        seen: list[str] = []

        def listener(name: str):
            def listen(event):
                if isinstance(event, Preview):
                    seen.append(f"{name}{event.index[0] // 2}{event.stage[0] if not last else ''}")

            return listen

        engine = Engine(model, batch={"base_8": 2, "sr_16": 2}, max_running=8)
        for k, owner in enumerate(owners):
            name = owner if len(set(owners)) > 1 else "abc"[k]
            engine.submit(Request(num=4, batch=2, seed=k, labels=(k,), last=last), listener(name), owner=owner)
        while engine.tick():
            pass
        return " ".join(seen)

    def test_two_requests_of_one_owner(self, model):
        """Each is seen at once, then the first goes on to its end."""
        assert self.told(model, "xx") == "a0 b0 a0 a0 a1 a1 a1 b0 b0 b1 b1 b1"

    def test_two_owners(self, model):
        """In turns, whatever waits."""
        assert self.told(model, "xy") == "x0 y0 x0 y0 x0 y0 x1 y1 x1 y1 x1 y1"

    def test_two_owners_through_two_stages(self, model):
        assert self.told(model, "xy", last="") == (
            "x0b y0b x0b y0b x0b y0b x0s y0s x0s y1b x0s y1b x1b y0s x1b y0s x1b y1b x1s y1s x1s y1s x1s y1s"
        )


@pytest.fixture(scope="module")
def networks() -> Cascade:
    """base_8 -> sr_16, random weights."""
    return tiny(8, 16, classes=3)


class TestMemory:
    """What `Cascade.sample` does where a call of so many rows does not fit."""

    REQUEST = Request(num=4, labels=(1,), batch=4)

    def limited(self, monkeypatch, most: int, *, side: int = 0) -> list[int]:
        """Rows of every call that is tried from now on; above `most` rows, of pictures of `side` px (0: any), memory ends."""
        tried: list[int] = []
        denoise = Stage.denoise

        def small_memory(self, x, *more):
            tried.append(len(x))
            if len(x) > most and side in (0, x.shape[-1]):
                raise torch.OutOfMemoryError("no memory")
            return denoise(self, x, *more)

        monkeypatch.setattr(Stage, "denoise", small_memory)
        return tried

    @pytest.mark.parametrize(("most", "tried"), [(4, "4x4"), (3, "4x2 2x4 4x2 2x4"), (1, "4x2 2x1 1x8 4x2 2x1 1x8")])
    def test_calls_halve_until_they_fit_and_the_pictures_are_the_same(self, networks, monkeypatch, most, tried):
        expected = finished(networks.sample(self.REQUEST))
        rows = self.limited(monkeypatch, most)
        events = list(networks.sample(self.REQUEST))
        assert isinstance(events[-1], Finished)
        assert levels_apart(finished(events), expected) <= 1
        assert " ".join(f"{row}x{len(list(same))}" for row, same in groupby(rows)) == tried

    def test_the_next_request_tries_large_calls_again(self, networks, monkeypatch):
        rows = self.limited(monkeypatch, 3)
        for _ in range(2):
            begun = len(rows)
            list(networks.sample(self.REQUEST))
            assert rows[begun] == 4

    def test_a_single_picture_without_room_ends_in_one_line(self, networks, monkeypatch):
        rows = self.limited(monkeypatch, 0, side=16)
        with pytest.raises(RunError, match=r"^stage sr_16: out of memory for a single image; ask for a smaller one$"):
            list(networks.sample(self.REQUEST))
        assert rows == [4, 4, 4, 4, 2, 1]  # two calls of base_8; room for twice the batch is thought to be there
