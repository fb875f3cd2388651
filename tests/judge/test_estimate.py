"""Scores with a jackknife: the error of a difference of two systems under the same conditions."""

import pytest
import torch

from cascade.judge.estimate import Estimate
from cascade.judge.kernel import kernel_distance, kernel_estimate
from cascade.judge.matching import match
from cascade.judge.wasserstein import finest_estimate

from .laws import noisy, pictures
from .oracle import draw


def generator():
    return torch.Generator().manual_seed(0)


def test_of_a_mean_it_is_the_textbooks_standard_error():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    estimate = Estimate.of_mean(values)
    assert estimate.value == 4
    assert estimate.error == pytest.approx(values.std().item() / 2)


def test_of_kid_it_is_kids():
    x, y = draw(40, 3), draw(55, 3, seed=1, shift=0.4)
    estimate, distance = kernel_estimate(x, y), kernel_distance(x, y)
    assert (estimate.value, estimate.error) == (distance.value, distance.error)


def test_the_error_of_a_difference_is_its_std_over_draws_and_below_the_parts():
    """Pictures of two systems that differ by a small shift, from the same noise."""
    differences = []
    for seed in range(40):
        real, first = draw(200, 4, seed=seed), draw(200, 4, seed=seed + 500, shift=0.4)
        estimates = [kernel_estimate(real, first), kernel_estimate(real, first + 0.05)]
        differences.append(estimates[1] - estimates[0])
        assert differences[-1].error < 0.5 * min(each.error for each in estimates)
    values = torch.tensor([each.value for each in differences])
    mean_error = sum(each.error for each in differences) / len(differences)
    assert mean_error == pytest.approx(values.std().item(), rel=0.3)


def test_of_swd_without_a_group_it_is_the_distance_of_the_rest():
    """Of patches that are all one value a picture, the distance to 0 is the mean size of that value, exactly."""
    levels = torch.tensor([10, 30, 70, 110], dtype=torch.uint8)
    real = noisy(torch.full((4, 1, 16, 16), 128, dtype=torch.uint8), 10)
    flat = (128 + levels).reshape(4, 1, 1, 1).expand(4, 1, 16, 16).to(torch.uint8)
    estimate = finest_estimate(real, flat, generator(), groups=4)
    assert len(estimate.left_out[0]) == 4
    # a picture far from the real ones raises the distance: without it the distance is less
    assert estimate.left_out[0].argmin() == 3
    assert estimate.left_out[0].argmax() == 0
    assert estimate.left_out[0].min() < estimate.value < estimate.left_out[0].max()


def test_swd_of_grain_is_known_beside_its_floor():
    real, other = pictures(40, 64), pictures(40, 64, seed=1)
    floor, grainy = (finest_estimate(real, each, generator()) for each in (other, noisy(other, 10)))
    assert (grainy - floor).value > 10 * (grainy - floor).error


def test_one_picture_has_no_error():
    with pytest.raises(ValueError, match="SWD: 1 picture a side; at least 2"):
        finest_estimate(pictures(1), pictures(1), generator())


def test_match_is_one_for_the_true_pictures_and_a_half_by_chance():
    real = draw(300, 6)
    assert match(real, real).value == 1
    by_chance = match(real, draw(300, 6, seed=1))
    assert abs(by_chance.value - 0.5) < 3 * by_chance.error
    near = real + 0.7 * draw(300, 6, seed=2)
    assert 0.7 < match(real, near).value < 1
    assert match(real, 3 * near + 5).value == pytest.approx(
        match(real, near).value
    )  # a common fault is not its business


def test_match_of_other_numbers_is_refused():
    with pytest.raises(ValueError, match=r"match: features \(4, 2\) and \(5, 2\)"):
        match(draw(4, 2), draw(5, 2))
