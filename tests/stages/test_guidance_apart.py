"""Guidance apart for text and class: null + s_label (label - null) + s_text (both - label), and which rows reach the network."""

import pytest
import torch
from torch.testing import assert_close

from stages.config import BaseConfig, SampleConfig
from stages.diffusion.samplers import Query
from stages.guidance import guidance
from stages.guiding.classifier_free import Scales
from stages.kinds.base import BaseStage
from stages.sampling import answer, guided, noise_of, of_own, sample_alone
from stages.tools.cost import network_rows
from tests.stages.tiny import changed, text_cond, text_config, unet_config, wake

BOTH = ("label", "text")


@pytest.fixture
def stage():
    """With the sizes of its batches in `asked`."""
    torch.manual_seed(0)
    net = unet_config(self_attention=(1,), cross_attention=(0, 1))
    stage = wake(BaseStage(BaseConfig(resolution=8, net=net, cond=text_config()))).eval()
    denoise, asked = stage.denoise, []
    object.__setattr__(stage, "asked", asked)
    object.__setattr__(stage, "denoise", lambda x, *given: asked.append(len(x)) or denoise(x, *given))
    return stage


@pytest.fixture
def given(generator):
    return text_cond(3, generator)


def ask(stage, given, sigma=1.0, **settings):
    """(guided x0_hat, rows of the network, the answers to each cond)."""
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    level = torch.full((3,), sigma)
    with torch.inference_mode():
        found = guided(stage, SampleConfig(**settings), given)(x, level)
        rows = list(stage.asked)
        conds = {
            "both": given,
            "label": given.dropped(["text"]),
            "text": given.dropped(["label"]),
            "null": given.dropped(BOTH),
        }
        answers = {name: stage.denoise(x, level, cond).x0_hat for name, cond in conds.items()}
    return found, rows, answers


def formula(answers, label, text, rows=slice(None)):
    null, only, both = (answers[name][rows] for name in ("null", "label", "both"))
    return null + label * (only - null) + text * (both - only)


@pytest.mark.parametrize(
    ("label", "text", "rows"),
    [(1.5, 3.0, 9), (3.0, 1.5, 9), (1.0, 3.0, 6), (3.0, 1.0, 9), (0.0, 2.0, 9), (2.0, 0.0, 9)],
)
def test_formula_and_one_shared_call(stage, given, label, text, rows):
    found, asked, answers = ask(stage, given, guidance_label=label, guidance_text=text)
    assert asked == [rows]
    assert min((answers[a] - answers[b]).abs().max() for a, b in (("both", "label"), ("label", "null"))) > 0.01
    assert_close(found, formula(answers, label, text), rtol=1e-4, atol=1e-5)
    assert Scales(label=label, text=text).rows == rows // 3


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_label": 2.5, "guidance_text": 2.5},
        {"guidance_scale": 2.5, "guidance_text": 2.5},
        {"guidance_scale": 4.0, "guidance_label": 2.5, "guidance_text": 2.5},
    ],
)
def test_equal_scales_are_one_scale_to_the_bit(stage, given, settings):
    once, rows, answers = ask(stage, given, guidance_scale=2.5)
    stage.asked.clear()
    found, again, _ = ask(stage, given, **settings)
    assert rows == again == [6]
    assert torch.equal(found, once)
    assert_close(once, answers["null"] + 2.5 * (answers["both"] - answers["null"]), rtol=1e-4, atol=1e-5)


def test_scales_of_1_are_one_call(stage, given):
    found, rows, answers = ask(stage, given, guidance_scale=5.0, guidance_label=1.0, guidance_text=1.0)
    assert rows == [3]
    assert torch.equal(found, answers["both"])


@pytest.mark.parametrize(("sigma", "rows"), [(0.25, [3]), (0.5, [9]), (2.0, [9]), (2.5, [3])])
def test_outside_the_interval_no_further_call(stage, given, sigma, rows):
    settings = {"guidance_label": 2.0, "guidance_text": 3.0, "guidance_interval": (0.25, 2.0)}
    assert ask(stage, given, sigma=sigma, **settings)[1] == rows


def test_an_image_that_lacks_one_is_guided_by_the_other_alone(stage, given):
    """Row 0 has both, row 1 no text, row 2 no label."""
    given = changed(given, "text", keep=torch.tensor([True, False, True]))
    given = changed(given, "label", keep=torch.tensor([True, True, False]))
    found, rows, answers = ask(stage, given, guidance_label=1.5, guidance_text=3.0)
    assert rows == [3 + 3 + 1]
    assert_close(found[:1], formula(answers, 1.5, 3.0, slice(1)), rtol=1e-4, atol=1e-5)
    for row, scale in ((1, 1.5), (2, 3.0)):
        null, cond = answers["null"][row], answers["both"][row]
        assert_close(found[row], null + scale * (cond - null), rtol=1e-4, atol=1e-5)


def test_an_image_without_either_is_not_guided(stage, given):
    found, rows, answers = ask(stage, given.dropped(BOTH), guidance_label=1.5, guidance_text=3.0)
    assert rows == [3]
    assert torch.equal(found, answers["null"])


def test_a_scale_of_1_of_the_label_needs_no_null_in_its_rows_alone(stage, given):
    """Row 0 has a label alone: with its scale at 1 it needs nothing more, the others need the answer without the text."""
    given = changed(given, "text", keep=torch.tensor([False, True, True]))
    found, rows, answers = ask(stage, given, guidance_label=1.0, guidance_text=3.0)
    assert rows == [3 + 2]
    assert_close(found[0], answers["both"][0], rtol=1e-4, atol=1e-5)
    assert_close(found[1:], formula(answers, 1.0, 3.0, slice(1, 3)), rtol=1e-4, atol=1e-5)


def test_a_part_of_the_rows_of_a_chunk(stage, given):
    """Some samplers ask for some rows only: each keeps its own scales."""
    given = changed(given, "text", keep=torch.tensor([True, False, True]))
    rule = guidance(SampleConfig(guidance_label=1.5, guidance_text=3.0), given, BOTH)
    x, sigma = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(3)

    def asked(query):
        with torch.inference_mode():
            return rule.combine(query, answer(stage, of_own(rule.asks(query)))).x0_hat

    rows = torch.tensor([2, 1])
    assert_close(asked(Query(x[rows], sigma[rows], rows=rows)), asked(Query(x, sigma))[rows], rtol=1e-5, atol=1e-5)


def test_over_a_whole_sampling(stage, given):
    settings = SampleConfig(num_steps=6, guidance_label=1.5, guidance_text=3.0, guidance_interval=(0.3, 3.0))
    sample_alone(stage, settings, given, noise_of("s", 0, torch.arange(3), "cpu"), (3, 3, 8, 8))
    assert stage.asked == [3 * rows for rows in network_rows(settings, BOTH)]
    assert set(stage.asked) == {3, 9}


@pytest.mark.parametrize(("names", "scale"), [(("text",), 3.0), (("label",), 1.5), ((), 2.0)])
def test_a_stage_with_one_condition_has_one_scale(names, scale):
    settings = SampleConfig(guidance_scale=2.0, guidance_text=3.0, guidance_label=1.5)
    assert Scales.of(settings, names) == Scales(label=scale, text=scale)
    assert set(network_rows(settings, names)) == {2}


def test_scales_that_are_not_given_are_not_written():
    assert "guidance_text" not in SampleConfig(guidance_label=2.0).model_dump()
    assert SampleConfig(guidance_label=2.0).model_dump()["guidance_label"] == 2.0
    with pytest.raises(ValueError, match="guidance_text"):
        SampleConfig(guidance_text=-1.0)
