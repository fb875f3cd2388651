"""Embeddings: unit variance, and a dropped condition is the null condition."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from stages.nets.embed import Embedding, Fourier, pooled_text, text_context
from stages.nets.ports import Ports
from tests.stages.tiny import PORTS, TEXT_DIM, TOKENS, changed, rms, text_cond


@pytest.fixture
def embedding():
    torch.manual_seed(0)
    return Embedding(256, PORTS)


@pytest.fixture
def cond(generator):
    return text_cond(6, generator)


def test_fourier_features_have_unit_variance(generator):
    torch.manual_seed(0)
    features = Fourier(512)(4 * torch.randn(256, generator=generator))
    assert rms(features) == pytest.approx(1, abs=0.05)
    assert features.mean().abs() < 0.1


@pytest.mark.parametrize(("classes", "text"), [(0, 0), (4, 0), (0, TEXT_DIM), (4, TEXT_DIM)])
@pytest.mark.parametrize("aug", [False, True])
def test_embedding_has_unit_variance(classes, text, aug, generator):
    torch.manual_seed(0)
    ports = Ports(
        inputs=6,
        outputs=3,
        levels=("aug",) if aug else (),
        classes={"label": classes} if classes else {},
        tokens={"text": text} if text else {},
    )
    made = Embedding(512, ports)
    level = torch.randn(64, generator=generator)
    cond = text_cond(64, generator)
    found = made(level, cond.given(aug=level.flip(0)) if aug else cond)
    assert rms(found) == pytest.approx(1, abs=0.1)


def test_dropped_row_is_exactly_the_null_row(embedding, cond):
    noise, aug = torch.zeros(6), torch.ones(6)
    dropped = cond.dropped(cond.parts, torch.tensor([True, False] * 3))
    found, nothing, everything = (embedding(noise, c.given(aug=aug)) for c in (dropped, Cond.empty(6), cond))
    assert torch.equal(found[1::2], nothing[1::2])
    assert torch.equal(found[0::2], everything[0::2])
    assert not torch.equal(found[0], nothing[0])


def test_each_part_is_heard(embedding, cond):
    noise, aug = torch.zeros(6), torch.ones(6)
    cond = cond.given(aug=aug)
    before = embedding(noise, cond)
    others = [
        embedding(noise + 0.3, cond),
        embedding(noise, cond.given(aug=aug + 0.3)),
        embedding(noise, changed(cond, "label", value=(cond.value("label") + 1) % 4)),
        embedding(noise, changed(cond, "text", value=cond.value("text").roll(1, 0))),
    ]
    for other in others:
        assert (other - before).abs().amax(1).min() > 0.01


def test_masked_tokens_have_no_influence(cond, generator):
    null = torch.randn(TEXT_DIM, generator=generator)
    text = cond.parts["text"]
    noise = 1e3 * torch.randn(text.value.shape, generator=generator)
    noisy = replace(text, value=torch.where(text.mask[..., None], text.value, noise))
    assert torch.equal(pooled_text(noisy, 6, null), pooled_text(text, 6, null))
    tokens, mask = text_context(noisy, 6, null)
    plain, same = text_context(text, 6, null)
    assert torch.equal(mask, same)
    assert torch.equal(tokens[mask], plain[same])


def test_pooled_text_is_the_direction_of_the_mean(cond, generator):
    null = torch.randn(TEXT_DIM, generator=generator)
    text = cond.parts["text"]
    pooled = pooled_text(text, 6, null)
    mean = text.value[3, :4].mean(0)
    assert_close(pooled[3], mean / mean.square().mean().sqrt())
    empty = replace(text, mask=torch.zeros(6, TOKENS, dtype=torch.bool))
    assert torch.equal(pooled_text(empty, 6, null), null.expand(6, -1))


def test_context_always_has_the_null_token(cond, generator):
    null = torch.randn(TEXT_DIM, generator=generator)
    tokens, mask = text_context(cond.dropped(["text"]).parts["text"], 6, null)
    assert mask.sum(1).tolist() == [1] * 6
    assert torch.equal(tokens[:, 0], null.expand(6, -1))
    alone, seen = text_context(None, 6, null)
    assert torch.equal(alone[:, 0], tokens[:, 0])
    assert seen.shape == (6, 1)
