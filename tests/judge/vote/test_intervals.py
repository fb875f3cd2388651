"""Wilson's interval and the votes that a claim needs, against the score test and the binomial law."""

from math import comb, sqrt

import pytest

from cascade.judge.vote.intervals import Share, Z, claims, votes_needed, wins_needed


def test_80_percent_is_shown_by_88_of_100_and_not_by_32_of_40():
    assert wins_needed(0.8, 100) == 88
    assert Share(successes=88, n=100).low > 0.8 > Share(successes=87, n=100).low
    assert Share(successes=32, n=40).low == pytest.approx(0.6524, abs=1e-4)
    assert wins_needed(0.8, 40) == 37


@pytest.mark.parametrize("n", [1, 7, 40, 333])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.8, 1.0])
def test_the_bounds_are_where_the_score_test_begins_to_reject(n, part):
    share = Share(successes=part * n, n=n)
    for bound in (share.low, share.high):
        assert abs(part - bound) == pytest.approx(Z * sqrt(bound * (1 - bound) / n), abs=1e-7)


@pytest.mark.parametrize("claim", [0.5, 2 / 3, 0.8, 0.95])
def test_the_closed_form_is_the_first_that_the_interval_shows(claim):
    for n in range(1, 120):
        shown = [wins for wins in range(n + 1) if Share(successes=wins, n=n).low > claim - 1e-12]
        assert wins_needed(claim, n) == (shown[0] if shown else None)


def test_the_fewest_votes_for_a_share_that_is_seen():
    n = votes_needed(0.8, 0.88)
    assert Share(successes=0.88 * n, n=n).low > 0.8 > Share(successes=0.88 * (n - 1), n=n - 1).low
    assert n == 97
    with pytest.raises(ValueError, match=r"a claim of 0\.8 is not shown by a share of 0\.8"):
        votes_needed(0.8, 0.8)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Exactly, by the binomial law: near 95 % over rates."""
    n = 60
    covered = []
    for rate in (0.1, 0.25, 0.4, 0.5, 0.7, 0.9):
        shares = [Share(successes=wins, n=n) for wins in range(n + 1)]
        law = [comb(n, wins) * rate**wins * (1 - rate) ** (n - wins) for wins in range(n + 1)]
        covered.append(sum(p for p, share in zip(law, shares, strict=True) if share.low <= rate <= share.high))
    assert all(0.92 < each < 0.98 for each in covered)
    assert sum(covered) / len(covered) == pytest.approx(0.95, abs=0.01)


def test_nothing_shows_nothing():
    assert (Share(successes=0, n=0).low, Share(successes=0, n=0).high) == (0, 1)
    assert claims(5, (0.8,)) == ["more than 80 %: 5 votes cannot show it; 16 can, if all agree"]
    assert wins_needed(0.8, 16) == 16
