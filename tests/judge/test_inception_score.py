"""Inception score of predictions of which it is known."""

import pytest
import torch

from cascade.judge.inception_score import inception_score

from . import oracle
from .oracle import draw


@pytest.mark.parametrize("strength", [50.0, 1e9])
@pytest.mark.parametrize("classes", [2, 10])
def test_of_balanced_certain_predictions_it_is_the_number_of_classes(classes, strength):
    logits = torch.eye(classes).repeat(10, 1) * strength
    assert inception_score(logits) == pytest.approx(classes, rel=1e-9)


def test_of_one_class_it_is_one_though_others_have_no_mass():
    logits = torch.zeros(40, 4)
    logits[:, 2] = 1e9
    assert inception_score(logits) == pytest.approx(1)


def test_of_equal_predictions_it_is_one():
    assert inception_score(draw(1, 4).expand(40, 4)) == pytest.approx(1)


def test_it_is_torch_fidelitys():
    assert inception_score(oracle.logits()) == pytest.approx(oracle.stored()["inception score"], rel=1e-4)


def test_too_few_are_refused():
    with pytest.raises(ValueError, match="logits: 49 samples for 5 dimensions"):
        inception_score(draw(49, 5))
