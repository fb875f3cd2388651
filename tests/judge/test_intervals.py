"""Wilson's interval against published numbers and its own promise; the bootstrap over groups."""

import pytest
import torch

from cascade.judge.intervals import rate, wilson


@pytest.mark.parametrize(
    ("right", "num", "low", "high"),
    [(32, 40, 0.652, 0.895), (88, 100, 0.802, 0.930), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (1, 1, 0.207, 1.0)],
)
def test_the_ends_are_those_of_the_formula(right, num, low, high):
    found = wilson(right, num)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)
    assert found.share == right / num


def test_nothing_is_known_of_nothing():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)
    assert str(wilson(0, 0)) == "none"


@pytest.mark.parametrize(("right", "num"), [(-1, 4), (5, 4)])
def test_an_impossible_count_is_refused(right, num):
    with pytest.raises(ValueError, match="a count from 0"):
        wilson(right, num)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_interval_holds_in_95_of_100_worlds(share):
    generator = torch.Generator().manual_seed(0)
    counts = (torch.rand(2000, 60, generator=generator) < share).sum(dim=1)
    held = sum(wilson(int(right), 60).low <= share <= wilson(int(right), 60).high for right in counts)
    assert 0.92 < held / 2000 < 0.98


def test_answers_that_come_in_groups_are_known_as_well_as_groups_are():
    generator = torch.Generator().manual_seed(0)
    one_each = torch.rand(50, generator=generator) < 0.6
    alone = rate(one_each)
    assert alone == wilson(int(one_each.sum()), 50)
    eight_times, group = one_each.repeat_interleave(8), torch.arange(50).repeat_interleave(8)
    naive, known = rate(eight_times), rate(eight_times, group)
    assert known.high - known.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert naive.high - naive.low < 0.5 * (known.high - known.low)


def test_groups_that_all_agree_do_not_make_a_point():
    found = rate(torch.ones(40, dtype=torch.bool), torch.arange(20).repeat_interleave(2))
    assert (found.low, found.high) == (wilson(20, 20).low, 1.0)
