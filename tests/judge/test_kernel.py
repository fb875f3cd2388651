"""Kernel distance against its definition, torch-fidelity, and draws of one law."""

import pytest
import torch

from cascade.judge import kernel
from cascade.judge.features import halves
from cascade.judge.kernel import kernel_distance

from . import oracle
from .oracle import draw


def by_definition(x, y):
    def mean(a, b, same):
        values = (a @ b.T / a.shape[1] + 1) ** 3
        return (values.sum() - values.trace()) / (len(a) * (len(a) - 1)) if same else values.mean()

    return (mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)).item()


def test_it_is_its_definition_also_for_unequal_n_and_in_blocks(monkeypatch):
    monkeypatch.setattr(kernel, "ROWS", 7)
    x, y = draw(40, 3), draw(55, 3, seed=1, shift=0.4)
    assert kernel_distance(x, y).value == pytest.approx(by_definition(x, y), rel=1e-10)


def test_the_error_is_the_jackknife_over_pictures():
    x, y = draw(30, 3), draw(33, 3, seed=1, shift=0.4)
    variance = 0.0
    for side, other in ((x, y), (y, x)):
        left = torch.tensor([by_definition(torch.cat([side[:i], side[i + 1 :]]), other) for i in range(len(side))])
        variance += (len(side) - 1) * left.double().var(correction=0).item()
    assert kernel_distance(x, y).error == pytest.approx(variance**0.5, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_torch_fidelitys(seed):
    assert kernel_distance(*oracle.kernel(seed)).value == pytest.approx(oracle.stored()["kernel"][seed], rel=1e-4)


def test_of_random_halves_the_mean_is_zero():
    real = draw(400, 8)
    scores = [kernel_distance(*halves(real, torch.Generator().manual_seed(seed))) for seed in range(60)]
    values = torch.tensor([score.value for score in scores])
    assert values.min() < 0 < values.max()
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert values.std() < sum(score.error for score in scores) / len(scores) < 3 * values.std()  # on the safe side


def test_away_from_zero_the_error_is_the_std_over_draws():
    scores = [kernel_distance(draw(200, 4, seed=s), draw(300, 4, seed=s + 500, shift=0.5)) for s in range(60)]
    values = torch.tensor([score.value for score in scores])
    assert sum(score.error for score in scores) / len(scores) == pytest.approx(values.std().item(), rel=0.3)


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (draw(79), draw(300), "real: 79 samples for 8 dimensions"),
        (draw(300), draw(79), "generated: 79 samples for 8 dimensions"),
        (draw(80), draw(80, 4), "one ruler"),
    ],
)
def test_what_cannot_be_compared_is_refused(real, generated, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(real, generated)
