"""The directions of guidance by their formulas, on answers that are known; what each costs; and that no image sees another."""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from stages.ask import OWN, Ask
from stages.config import SampleConfig
from stages.diffusion.samplers import SAMPLERS, Answer, Query, Sampler
from stages.guidance import guidance, rows_by_call, zeros
from stages.guiding.autoguidance import GUIDE
from stages.guiding.beside import Beside
from stages.sampling import noise_of
from tests.worlds import GaussianData

from .rules import answered, described, driven, texts, toy

NAN = math.nan
BOTH = ("label", "text")
HOSTS = {OWN: toy, GUIDE: lambda ask: toy(ask, bend=0.4)}


def gaussian(mean: float, std: float) -> GaussianData:
    return GaussianData(mean=torch.full((1, 2, 2), mean).double(), std=torch.full((1, 2, 2), std).double())


def query_of(num: int, sigma: float = 2.0, dtype=torch.float64) -> Query:
    x = torch.randn(num, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return Query(x, torch.full((num,), sigma))


def started(settings: SampleConfig, x: torch.Tensor) -> Sampler:
    """The sampler of the settings from x, with no noise on its way."""
    return SAMPLERS[settings.sampler](x, settings.sigmas, zeros, settings.options)


def denoise(query: Query, cond: Cond) -> torch.Tensor:
    return toy(Ask(query=query, cond=cond))


def test_the_guided_ode_of_gaussians_is_that_of_the_extrapolated_one():
    """Equal stds: guidance by s is sampling from N(null + s (cond - null), std^2)."""
    cond, null, scale = gaussian(0.5, 0.3), gaussian(-0.1, 0.3), 2.5
    settings = SampleConfig(sampler="heun", num_steps=200, sigma_max=20, guidance_scale=scale)

    def own(ask):
        world = cond if ask.cond.parts["label"].keep.all() else null
        return world.denoise(ask.query.x, ask.query.sigma)

    given = Cond.empty(3).given(label=torch.zeros(3, dtype=torch.int64))
    x = 20 * torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = driven(guidance(settings, given, ("label",)), started(settings, x), {OWN: own})
    assert_close(found, gaussian(-0.1 + scale * 0.6, 0.3).path(x, 20, 0), rtol=0, atol=2e-4)


def test_the_ode_of_autoguidance_is_narrower_by_the_powers_of_both():
    """dlog x / dlog sigma is linear in the answers, so the stretch is a product of powers of both: w of own, 1 - w of guide."""
    own, guide, scale = gaussian(0.0, 0.4), gaussian(0.0, 0.7), 2.2
    settings = SampleConfig(sampler="heun", num_steps=200, sigma_max=20, autoguidance_scale=scale)
    hosts = {
        name: lambda ask, world=world: world.denoise(ask.query.x, ask.query.sigma)
        for name, world in ((OWN, own), (GUIDE, guide))
    }
    x = 20 * torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = driven(guidance(settings, Cond.empty(3), (), hosts), started(settings, x), hosts)
    exact = x
    for std, power in ((0.4, scale), (0.7, 1 - scale)):
        exact = exact * (std**2 / (std**2 + 400)) ** (power / 2)
    assert_close(found, exact, rtol=2e-3, atol=0)
    assert exact.std() < own.path(x, 20, 0).std()


@pytest.mark.parametrize(("sigma", "free", "auto"), [(0.4, 1.0, 3.0), (2.0, 2.0, 3.0), (8.0, 2.0, 1.0)])
def test_both_act_each_in_its_interval(sigma, free, auto):
    settings = SampleConfig(
        guidance_scale=2.0, guidance_interval=(1, 10), autoguidance_scale=3.0, autoguidance_interval=(0, 5)
    )
    cond, query = texts(0.1, 0.7), query_of(2, sigma)
    asked = Counter()
    found = answered(guidance(settings, cond, ("text",), HOSTS), query, HOSTS, asked)
    own, null = denoise(query, cond), denoise(query, cond.dropped(["text"]))
    guide = HOSTS[GUIDE](Ask(query=query, cond=cond))
    assert_close(found, own + (free - 1) * (own - null) + (auto - 1) * (own - guide))
    assert asked == {OWN: 2 + 2 * (free != 1), GUIDE: 2} if auto != 1 else {OWN: 4}


def test_autoguidance_alone_is_the_paper_s_formula():
    query = query_of(2)
    found = answered(guidance(SampleConfig(autoguidance_scale=3.0), texts(0.1, 0.7), ("text",), HOSTS), query, HOSTS)
    own, guide = (HOSTS[name](Ask(query=query, cond=texts(0.1, 0.7))) for name in (OWN, GUIDE))
    assert_close(found, guide + 3 * (own - guide))


ALL_ON = {
    "guidance_scale": 1.0, "autoguidance_scale": 1.0, "guidance_every": 3, "guidance_rescale": 0.7, "anneal_scale": 0.0,
}  # fmt: skip


def test_at_scale_1_nothing_is_asked_beside_and_the_answer_is_the_own_one_to_the_bit():
    cond, query, asked = texts(0.1, 0.7), query_of(2), Counter()
    beside = Beside(scales=(1.0, 1.0), negative=texts(0.5, 0.5))
    rule = guidance(SampleConfig(**ALL_ON), cond, ("text",), HOSTS, beside)
    assert torch.equal(answered(rule, query, HOSTS, asked), denoise(query, cond))
    assert asked == {OWN: 2}


def test_each_image_has_its_own_scale():
    cond, query, asked = texts(0.1, 0.7, -0.2), query_of(3), Counter()
    scales = (1.0, 2.0, 5.0)
    rule = guidance(SampleConfig(guidance_scale=9.0), cond, ("text",), beside=Beside(scales=scales))
    found = answered(rule, query, HOSTS, asked)
    own, null = denoise(query, cond), denoise(query, cond.dropped(["text"]))
    assert_close(found, null + torch.tensor(scales).double()[:, None, None, None] * (own - null))
    assert asked == {OWN: 3 + 2}


def test_a_negative_text_stands_where_none_would():
    cond, query, asked = texts(0.1, 0.7), query_of(2), Counter()
    negative = texts(-0.9, NAN)
    rule = guidance(SampleConfig(guidance_scale=3.0), cond, ("text",), beside=Beside(negative=negative))
    found = answered(rule, query, HOSTS, asked)
    own, away = denoise(query, cond), denoise(query, negative)
    assert torch.equal(away[1], denoise(query, cond.dropped(["text"]))[1])
    assert_close(found, away + 3 * (own - away))
    assert asked == {OWN: 4}


def test_a_negative_text_stands_in_both_answers_of_guidance_apart():
    cond, query = described(texts(0.1, 0.7), (0, 2)), query_of(2)
    negative = texts(-0.9, -0.4)
    settings = SampleConfig(guidance_label=2.0, guidance_text=3.0)
    found = answered(guidance(settings, cond, BOTH, beside=Beside(negative=negative)), query, HOSTS)
    label = denoise(query, replace(cond, parts={**cond.parts, **negative.parts}))
    null = denoise(query, replace(cond, parts={**cond.dropped(["label"]).parts, **negative.parts}))
    assert_close(found, null + 2 * (label - null) + 3 * (denoise(query, cond) - label))


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 5), (3.0, 6)])
def test_composed_texts_are_a_weighted_sum_of_differences(scale, rows):
    """The first image has two texts more, the second none, and costs no more. Without a label one answer is null and bare."""
    cond, query, asked = texts(0.1, 0.7), query_of(2), Counter()
    more = [(texts(0.5, NAN), (0.5, 0.0)), (texts(-0.4, NAN), (-0.3, 0.0))]
    rule = guidance(SampleConfig(guidance_scale=scale), cond, ("text",), beside=Beside(composed=more))
    found = answered(rule, query, HOSTS, asked)
    own, null = denoise(query, cond), denoise(query, cond.dropped(["text"]))
    composed = own.clone()
    for text, weights in more:
        composed[0] += weights[0] * (denoise(query, text) - null)[0]
    assert_close(found, null + scale * (composed - null))
    assert asked == {OWN: rows}


@pytest.mark.parametrize(("label", "text", "rows"), [(2.0, 2.0, 4), (2.0, 3.0, 4), (1.0, 1.0, 3)])
def test_with_a_label_each_composed_text_has_it(label, text, rows):
    cond, query, asked = described(texts(0.1), (1,)), query_of(1), Counter()
    more = texts(0.5)
    settings = SampleConfig(guidance_label=label, guidance_text=text)
    rule = guidance(settings, cond, BOTH, beside=Beside(composed=[(more, (0.5,))]))
    found = answered(rule, query, HOSTS, asked)
    bare, null = denoise(query, cond.dropped(["text"])), denoise(query, cond.dropped(BOTH))
    other = denoise(query, replace(cond, parts={**cond.parts, **more.parts}))
    composed = denoise(query, cond) + 0.5 * (other - bare)
    assert_close(found, null + label * (bare - null) + text * (composed - bare))
    assert asked == {OWN: rows}


def sampled(every: int, steps: int) -> torch.Tensor:
    """x0 of Euler on two Gaussians, whose difference changes with x and sigma."""
    cond, null = gaussian(0.5, 0.3), gaussian(-0.2, 0.8)
    settings = SampleConfig(
        sampler="euler", num_steps=steps, sigma_max=4, sigma_min=0.05, guidance_scale=2.0, guidance_every=every
    )

    def own(ask):
        return (cond if ask.cond.parts["label"].keep.all() else null).denoise(ask.query.x, ask.query.sigma)

    given = Cond.empty(2).given(label=torch.zeros(2, dtype=torch.int64))
    x = torch.tensor([3.0, -5.0], dtype=torch.float64)[:, None, None, None].expand(2, 1, 2, 2)
    return driven(guidance(settings, given, ("label",)), started(settings, x), {OWN: own})


@pytest.mark.parametrize("every", [2, 3])
def test_a_cached_difference_errs_in_first_order(every):
    errors = [(sampled(every, steps) - sampled(1, steps)).abs().max().item() for steps in (120, 240, 480)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert errors[0] > 1e-5
    assert orders == pytest.approx([1, 1], abs=0.15)


def test_a_cached_difference_is_asked_for_every_so_many_calls():
    settings = SampleConfig(num_steps=7, guidance_scale=2.0, autoguidance_scale=2.0, guidance_every=3)
    rows = [dict(each) for each in rows_by_call(settings, ("text",), {OWN, GUIDE})]
    full, saved = {OWN: 2, GUIDE: 1}, {OWN: 1}
    assert rows == [full, saved, saved, full, saved, saved, full]


@pytest.mark.parametrize("names", [(), ("text",), BOTH])
def test_the_calls_that_are_told_are_those_that_are_made(names):
    settings = SampleConfig(
        num_steps=9, guidance_scale=2.0, guidance_interval=(0.1, 5), guidance_every=2, sampler="heun"
    )
    cond = described(texts(0.3), (1,))
    told = sum((Counter(rows) for rows in rows_by_call(settings, names)), Counter())
    x = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    asked = Counter()
    rule = guidance(settings, replace(cond, parts={name: cond.parts[name] for name in names}), names)
    driven(rule, started(settings, 80 * x), HOSTS, asked)
    assert told == asked


def test_the_calls_of_a_learned_variance_are_told():
    """Before there is a network, hence an answer with a variance."""
    settings = SampleConfig(sampler="ddpm", variance="learned", num_steps=5, guidance_scale=2.0)
    assert [dict(rows) for rows in rows_by_call(settings, ("text",))] == [{OWN: 2}] * 5


EVERYTHING = SampleConfig(
    num_steps=6, guidance_label=2.0, guidance_text=3.0, guidance_interval=(0.05, 20), autoguidance_scale=1.8, guidance_every=2,
    guidance_rescale=0.6, dynamic_threshold=0.9, anneal_scale=0.7, anneal_levels=(0.2, 30),
)  # fmt: skip


@pytest.mark.parametrize("scales", [None, (2.0, 1.0, 4.0)])
def test_an_image_does_not_depend_on_those_beside_it(scales):
    """All of guidance at once, float32: each image alone has the bits that it has among three."""

    def pictures(images: list[int]) -> torch.Tensor:
        rows = torch.tensor(images)
        noise = noise_of("s", 5, rows, "cpu")
        beside = Beside(
            scales=scales and [scales[image] for image in images],
            negative=texts(-0.9, NAN, 0.2)[rows],
            composed=[(texts(0.5, NAN, 0.1)[rows], [(0.5, 0.0, -0.2)[image] for image in images])],
        )
        cond = described(texts(0.1, 0.7, -0.2), (0, -1, 2))[rows]
        rule = guidance(EVERYTHING, cond, BOTH, HOSTS, beside, noise)
        x = 80 * noise("start", (len(images), 3, 4, 4))
        return driven(rule, started(EVERYTHING, x), HOSTS)

    together = pictures([0, 1, 2])
    assert torch.equal(together, torch.cat([pictures([image]) for image in range(3)]))
    assert torch.equal(together[[2, 0]], pictures([2, 0]))


def test_annealing_makes_pictures_of_a_condition_differ_and_none_below_its_levels():
    settings = SampleConfig(anneal_scale=1.0, anneal_levels=(1.0, 4.0))
    noise = noise_of("s", 5, torch.arange(2), "cpu")
    cond = texts(0.3, 0.3)
    rule = guidance(settings, cond, ("text",), noise=noise)
    for sigma, is_noisy in ((8.0, True), (2.0, True), (0.9, False)):
        query = query_of(2, sigma)
        ((_, ask),) = rule.asks(query)
        text = ask.cond.parts["text"].value
        assert torch.equal(text, cond.parts["text"].value) != is_noisy
        assert torch.equal(text[0], text[1]) != is_noisy
        rule.combine(query, [Answer(query.x)])
