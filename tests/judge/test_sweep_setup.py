"""What a sweep tries: setups that stages accept, in an order that is always the same, with what they cost."""

import pytest

from cascade.judge.sweep_setup import COORDINATES, Setup, Space, calls, coordinates
from stages.ask import OWN
from stages.config import SampleConfig
from stages.diffusion.samplers import SAMPLERS, num_queries
from stages.guiding.autoguidance import GUIDE

ALL = Space(guidable=True, max_aug_sigma=0.4, half_lives=(500, 2000))


def tried(space, now, fine=False, before=()):
    return {name: list(others(now, [now, *before], fine)) for name, others in coordinates(space)}


@pytest.mark.parametrize("sampler", [name for name, kind in SAMPLERS.items() if not kind.adapts])
def test_calls_are_those_of_the_sampler(sampler):
    sample = SampleConfig(sampler=sampler, num_steps=6)
    assert calls(sample) == num_queries(sampler, 6)


def test_guided_calls_count_twice_inside_the_interval():
    sample = SampleConfig(num_steps=8, guidance_scale=2.0)
    assert calls(sample, ("label",)) == 16
    assert calls(SampleConfig(num_steps=8), ("label",)) == 8
    level = sample.sigmas[4].item() * 1.01
    inside = sample.model_copy(update={"guidance_interval": (level, 1e9)})
    assert calls(inside, ("label",)) == 12
    assert calls(sample.model_copy(update={"guidance_every": 2}), ("label",)) == 12
    assert calls(sample.model_copy(update={"autoguidance_scale": 2.0}), ("label",), {OWN, GUIDE}) == 24


def test_a_coordinate_changes_one_thing():
    now = Setup(sample=SampleConfig(guidance_scale=2.0, aug_sigma=0.1))
    changed = {"sampler": {"sampler", "num_steps"}, "sigma_min": {"sigma_min", "num_steps"}}
    for name, setups in tried(ALL, now).items():
        assert setups, name
        for setup in setups:
            assert set(setup.differences(now)) <= changed.get(name, {name}), name


def test_what_a_stage_lacks_is_not_tried():
    assert [name for name, _ in coordinates(Space(guidable=False, max_aug_sigma=None))] == [
        "sampler",
        "sigma_max",
        "sigma_min",
    ]
    assert [name for name, _ in coordinates(ALL)] == list(COORDINATES)
    now = Setup(sample=SampleConfig())
    assert all(setup.sample.aug_sigma <= 0.4 for setup in tried(ALL, now)["aug_sigma"])
    assert tried(ALL, now)["guidance_interval"] == []  # guidance 1 is off
    low = Setup(sample=SampleConfig(sigma_max=1.0, sigma_min=0.3))
    assert all(setup.sample.sigma_max > 0.3 for setup in tried(ALL, low)["sigma_max"])


def test_fine_steps_lie_between_what_was_tried():
    now = Setup(sample=SampleConfig(aug_sigma=0.2))
    before = [Setup(sample=SampleConfig(aug_sigma=value)) for value in (0.0, 0.1, 0.3)]
    fine = tried(ALL, now, fine=True, before=before)
    assert [setup.sample.aug_sigma for setup in fine["aug_sigma"]] == [0.15, 0.25]
    assert [setup.sample.num_steps for setup in fine["sampler"]] == [12, 24]
    assert fine["half_life"] == []


def test_a_lower_last_level_is_tried_with_a_step_more():
    now = Setup(sample=SampleConfig(num_steps=2, sigma_min=0.05))
    found = [(each.sample.sigma_min, each.sample.num_steps) for each in tried(ALL, now)["sigma_min"]]
    assert found == [(0.005, 2), (0.015, 2), (0.005, 3), (0.015, 3)]


def test_a_setup_is_read_back_and_told():
    start = Setup(sample=SampleConfig(guidance_scale=3.0))
    other = Setup(sample=SampleConfig(guidance_scale=1.5, guidance_interval=(0.2, 1e9), num_steps=8), half_life=2000)
    assert Setup.of_json(other.as_json()) == other
    assert other.told(start) == "num_steps 8, guidance_scale 1.5, guidance_interval (0.2, open), half_life 2,000"
    assert start.told(start) == "as it is"
