"""Dropout of class and text together and apart, and noise on text features."""

import pytest
import torch
from torch.testing import assert_close

from data.batch import Batch
from stages.build import build_stage
from stages.conditions.in_training import dropped, noisy_text
from stages.config import CondConfig, TextConfig
from stages.diffusion.corrupt import uniforms
from stages.draws import UNIFORMS, Draws
from stages.randomness import generators
from tests.stages.tiny import TEXT_DIM, TOKENS, base_config, changed, shapes_batch, text_cond, text_config, unet_config

NUM = 4000
FIRST = ("sigma", "drop", "flip", "aug_sigma", "crop_y", "crop_x")  # what the first version drew


def text_batch(num: int) -> Batch:
    plain = shapes_batch(num, 8)
    return Batch(
        image=plain.image, cond=text_cond(num, torch.Generator().manual_seed(0)), index=plain.index, keys=plain.keys
    )


def text_stage(noise: float = 0.0, **cond):
    text = TextConfig(encoder="stand-in", dim=TEXT_DIM, tokens=TOKENS, noise=noise)
    config = base_config().model_copy(
        update={"cond": CondConfig(num_classes=4, text=text, **cond), "net": unet_config(cross_attention=(1,))}
    )
    torch.manual_seed(0)
    return build_stage(config)


def test_further_draws_leave_those_of_the_first_version_as_they_were():
    batch = shapes_batch(16, 8)
    before = uniforms(generators(3, batch.index, "draws"), len(FIRST))
    assert UNIFORMS[: len(FIRST)] == FIRST
    u = Draws(batch, 3).uniforms
    assert torch.equal(torch.stack([u[name] for name in FIRST], 1), before)
    assert len({tuple(column.tolist()) for column in u.values()}) == len(UNIFORMS)


def kept(config: CondConfig, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    cond = text_cond(NUM, torch.Generator().manual_seed(0))
    table = uniforms(generators(seed, torch.arange(NUM), "draws"), len(UNIFORMS))
    found = dropped(cond, config, dict(zip(UNIFORMS, table.unbind(1), strict=True)))
    return found.parts["label"].keep, found.parts["text"].keep


@pytest.mark.parametrize(("drop", "each"), [(0.1, 0.0), (0.0, 0.2), (0.2, 0.3), (1.0, 0.0), (0.0, 1.0)])
def test_shares_of_what_is_dropped(drop, each):
    """Of four kinds of images, within four standard errors of the binomial."""
    label, text = kept(text_config().model_copy(update={"drop": drop, "drop_each": each}))
    shares = {
        "both": ((~label & ~text), drop + (1 - drop) * each**2),
        "label": ((~label & text), (1 - drop) * each * (1 - each)),
        "text": ((label & ~text), (1 - drop) * each * (1 - each)),
        "none": ((label & text), (1 - drop) * (1 - each) ** 2),
    }
    for name, (found, share) in shares.items():
        bound = 4 * (share * (1 - share) / NUM) ** 0.5
        assert found.double().mean().item() == pytest.approx(share, abs=bound + 1e-12), name


def test_the_joint_drop_does_not_depend_on_the_others():
    """Whoever was dropped without drop_each is dropped with it."""
    plain = kept(text_config())
    more = kept(text_config().model_copy(update={"drop_each": 0.3}))
    assert torch.equal(*plain)
    for before, after in zip(plain, more, strict=True):
        assert not (after & ~before).any()
        assert (before & ~after).any()


@pytest.mark.parametrize(("given", "told"), [({}, "none"), ({"num_classes": 4}, "label"), ({"text": True}, "text")])
def test_separate_dropout_needs_two_conditions(given, told):
    if "text" in given:
        given = {"text": text_config().text}
    with pytest.raises(ValueError, match=f"drop_each 0.1 drops conditions apart, and the only one is {told}; set"):
        CondConfig(drop_each=0.1, **given)


def test_noise_is_relative_to_each_token():
    cond = text_cond(6, torch.Generator().manual_seed(0))
    text = cond.value("text")
    scales = torch.logspace(-2, 2, 6 * TOKENS).reshape(6, TOKENS, 1)
    cond = changed(cond, "text", value=text * scales)
    eps = torch.randn(text.shape, generator=torch.Generator().manual_seed(1))
    found = noisy_text(cond, 0.5, eps)
    rms = text.square().mean(-1, keepdim=True).sqrt()
    assert_close(found.value("text") / scales, text + 0.5 * rms * eps)
    assert torch.equal(found.parts["text"].mask, cond.parts["text"].mask)
    assert torch.equal(found.value("label"), cond.value("label"))
    empty = changed(cond, "text", value=torch.zeros_like(text))  # padding stays zero
    assert not noisy_text(empty, 0.5, eps).value("text").any()


def test_noise_is_for_training_only_and_each_image_has_its_own():
    stage, batch = text_stage(noise=0.3), text_batch(64)
    text = batch.cond.value("text")
    _, cond = stage.prepared(batch, Draws(batch, 0), None)
    relative = (cond.value("text") - text) / text.square().mean(-1, keepdim=True).sqrt()
    assert relative.std().item() == pytest.approx(0.3, abs=4 * 0.3 / (2 * relative.numel()) ** 0.5)
    for k in (0, 5):
        own = batch[k : k + 1]
        assert torch.equal(stage.prepared(own, Draws(own, 0), None)[1].value("text"), cond.value("text")[k : k + 1])
    _, other_seed = stage.prepared(batch, Draws(batch, 1), None)
    assert not torch.equal(other_seed.value("text"), cond.value("text"))
    _, unchanged = stage.eval().prepared(batch, Draws(batch, 0), None)
    assert torch.equal(unchanged.value("text"), text)
    _, none = text_stage().prepared(batch, Draws(batch, 0), None)
    assert torch.equal(none.value("text"), text)
