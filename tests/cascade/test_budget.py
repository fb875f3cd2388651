"""A time budget is shared over the stages by the speed of their networks, and becomes plain settings."""

from dataclasses import replace

import pytest
import torch

from cascade.budget import calls, measured, rounded_up, steps_within
from cascade.output.metadata import describe
from cascade.request import Request
from cascade.source import Source

from .chains import tiny

SPEEDS = {"base_8": 0.01, "sr_16": 0.04}  # seconds of a row
OWN = {"base_8": 16, "sr_16": 8}


@pytest.fixture(scope="module")
def model():
    model = tiny(8, 16)
    model.links = [
        replace(link, settings=link.settings.model_copy(update={"num_steps": OWN[link.name]})) for link in model.links
    ]
    return model


def steps(model, **request) -> dict[str, int]:
    plan = model.resolve(Request(**request), speeds=SPEEDS)
    return {link.name: link.settings.num_steps for link in plan.links}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (100, OWN),  # never more than the stages' own
        (0.48, OWN),  # 16 * 0.01 + 8 * 0.04
        (0.479, {"base_8": 15, "sr_16": 7}),
        (0.24, {"base_8": 8, "sr_16": 4}),
        (0.05, {"base_8": 1, "sr_16": 1}),
    ],
)
def test_every_stage_keeps_the_same_share(model, seconds, expected):
    assert steps(model, seconds=seconds) == expected


@pytest.mark.parametrize("seconds", [0.06, 0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("sampler", ["heun", "pc", "adaptive", "dpmpp_2m"])
def test_the_calls_of_the_sampler_fit_and_the_next_share_would_not(model, sampler, seconds):
    settings = {name: {"sampler": sampler} for name in OWN}
    plan = model.resolve(Request(seconds=seconds, settings=settings), speeds=SPEEDS)
    spent = sum(SPEEDS[link.name] * link.nfe for link in plan.links)
    assert spent <= seconds
    finer = sum(SPEEDS[link.name] * calls(plan, link, link.settings.num_steps + 1) for link in plan.links)
    assert finer > seconds


@pytest.mark.parametrize(
    ("masked", "settings"),
    [(True, {"resample": 4}), (False, {})],  # RePaint's turns; an inversion's two calls a step on the way up
)
def test_what_painting_over_calls_besides_counts(model, masked, settings):
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., 8:] = True
    source = Source(
        images=torch.zeros(1, 3, 16, 16, dtype=torch.uint8), mask=mask if masked else None, inverted=not masked
    )
    request = Request(seconds=0.48, source=source, settings={name: settings for name in OWN})
    plan = model.resolve(request, speeds=SPEEDS)
    assert sum(SPEEDS[link.name] * plan.calls(link) for link in plan.links) <= 0.48
    finer = sum(SPEEDS[link.name] * calls(plan, link, link.settings.num_steps + 1) for link in plan.links)
    assert finer > 0.48


def test_more_images_and_larger_ones_get_fewer_steps(model):
    assert steps(model, seconds=0.48, num=2) == {"base_8": 8, "sr_16": 4}
    assert steps(model, seconds=0.48, size=(32, 16)) == {"base_8": 8, "sr_16": 4}


@pytest.mark.parametrize(("seconds", "expected"), [(2.41, (16, 8)), (1.21, (8, 4)), (1.1, (7, 3))])
def test_several_requests_share_it(model, seconds, expected):
    """One picture of 16 px and two of twice the area, 5 times the 0.48 s of one: all have the same share."""
    plans = [model.resolve(Request(num=num, size=size)) for num, size in ((1, (16, 16)), (2, (32, 16)))]
    assert steps_within(plans, SPEEDS, seconds) == [dict(zip(OWN, expected, strict=True))] * 2


def test_given_steps_stand(model):
    assert steps(model, seconds=0.40, settings={"base_8": {"num_steps": 16}}) == {"base_8": 16, "sr_16": 6}


def test_a_budget_that_no_setting_can_meet(model):
    with pytest.raises(
        ValueError, match=r"^request: 0.01 s is too short, the least takes about 0.05 s here; allow more"
    ):
        steps(model, seconds=0.01)


@pytest.mark.parametrize(
    ("least", "said"), [(0.05, 0.05), (0.0501, 0.051), (0.1449, 0.15), (1.0, 1.0), (99.2, 100.0), (123.0, 130.0)]
)
def test_the_least_that_is_said_is_enough(least, said):
    assert rounded_up(least) == pytest.approx(said, rel=1e-9)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_numbers_that_are_no_time(seconds):
    with pytest.raises(ValueError, match=r"^request: seconds [^\n]* is out of range"):
        Request(seconds=seconds)


def test_the_plan_has_plain_settings_that_make_it_again(model):
    plan = model.resolve(Request(seconds=0.24, seed=3), speeds=SPEEDS)
    assert plan.request.seconds is None
    again = model.resolve(Request(seed=3, settings={"base_8": {"num_steps": 8}, "sr_16": {"num_steps": 4}}))
    assert describe(again) == describe(plan)


def test_speeds_are_measured_where_none_are_given(model):
    plan = model.resolve(Request(num=2))
    speeds = measured(plan)
    assert speeds.keys() == SPEEDS.keys()
    assert all(0 < seconds < 5 for seconds in speeds.values())
    assert model.resolve(Request(num=2, seconds=1000)).nfe == plan.nfe
