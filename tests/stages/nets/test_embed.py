"""Embeddings: unit variance, and a dropped condition is the null condition."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.batch import Cond
from stages.nets.embed import Embedding, Fourier, pooled_text, text_context
from tests.stages.tiny import TEXT_DIM, TOKENS, rms, text_cond


@pytest.fixture
def embedding():
    torch.manual_seed(0)
    return Embedding(256, aug=True, num_classes=4, text_dim=TEXT_DIM)


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
    made = Embedding(512, aug=aug, num_classes=classes, text_dim=text)
    level = torch.randn(64, generator=generator)
    found = made(level, level.flip(0) if aug else None, text_cond(64, generator))
    assert rms(found) == pytest.approx(1, abs=0.1)


def test_dropped_row_is_exactly_the_null_row(embedding, cond):
    noise, aug = torch.zeros(6), torch.ones(6)
    dropped = replace(cond, keep=torch.tensor([True, False] * 3))
    found, nothing, everything = (embedding(noise, aug, c) for c in (dropped, Cond.empty(6), cond))
    assert torch.equal(found[1::2], nothing[1::2])
    assert torch.equal(found[0::2], everything[0::2])
    assert not torch.equal(found[0], nothing[0])


def test_each_part_is_heard(embedding, cond):
    noise, aug = torch.zeros(6), torch.ones(6)
    before = embedding(noise, aug, cond)
    others = [
        embedding(noise + 0.3, aug, cond),
        embedding(noise, aug + 0.3, cond),
        embedding(noise, aug, replace(cond, label=(cond.label + 1) % 4)),
        embedding(noise, aug, replace(cond, text=cond.text.roll(1, 0))),
    ]
    for other in others:
        assert (other - before).abs().amax(1).min() > 0.01


def test_masked_tokens_have_no_influence(cond, generator):
    null = torch.randn(TEXT_DIM, generator=generator)
    noisy = torch.where(cond.text_mask[..., None], cond.text, 1e3 * torch.randn(cond.text.shape, generator=generator))
    changed = replace(cond, text=noisy)
    assert torch.equal(pooled_text(changed, null), pooled_text(cond, null))
    tokens, mask = text_context(changed, null)
    plain, same = text_context(cond, null)
    assert torch.equal(mask, same)
    assert torch.equal(tokens[mask], plain[same])


def test_pooled_text_is_the_direction_of_the_mean(cond, generator):
    null = torch.randn(TEXT_DIM, generator=generator)
    pooled = pooled_text(cond, null)
    mean = cond.text[3, :4].mean(0)
    assert_close(pooled[3], mean / mean.square().mean().sqrt())
    empty = replace(cond, text_mask=torch.zeros(6, TOKENS, dtype=torch.bool))
    assert torch.equal(pooled_text(empty, null), null.expand(6, -1))


def test_context_always_has_the_null_token(cond, generator):
    null = torch.randn(TEXT_DIM, generator=generator)
    tokens, mask = text_context(cond.null(), null)
    assert mask.sum(1).tolist() == [1] * 6
    assert torch.equal(tokens[:, 0], null.expand(6, -1))
    alone, seen = text_context(Cond.empty(6), null)
    assert torch.equal(alone[:, 0], tokens[:, 0])
    assert seen.shape == (6, 1)
