"""What votes say."""

import pytest

from cascade.judge.vote.ballots import Ask, make_ballots
from cascade.judge.vote.intervals import Share
from cascade.judge.vote.result import result, result_lines
from cascade.judge.vote.votes import Vote
from tests.judge.vote.test_ballots import side

NAMES = {str(i): f"caption {i}" for i in range(10)}


def votes_of(voter: str, choices: dict[str, str], shown: tuple[str, ...]) -> list[Vote]:
    return [Vote(voter=voter, ballot=key, shown=shown, choice=choice, at=0.0) for key, choice in choices.items()]


def better(votes: list[Vote], names: str = "ab"):
    ballots = make_ballots(Ask.BETTER, [side(name, NAMES) for name in names])
    return result(Ask.BETTER, list(names), ballots, votes)


def test_a_win_is_of_the_side_wherever_it_stood():
    left = votes_of("ann", {"0-1/0": "left", "0-1/1": "right", "0-1/2": "tie"}, ("a", "b"))
    right = votes_of("ann", {"0-1/3": "right", "0-1/4": "right"}, ("b", "a"))
    (told,) = better(left + right)["together"]
    assert told["choices"] == {"better": 3, "tie": 1, "worse": 1}
    assert (told["successes"], told["n"]) == (3.5, 5)
    assert told["low"] == Share(successes=3.5, n=5).low


def test_together_a_pair_counts_once():
    ann = votes_of("ann", {"0-1/0": "left", "0-1/1": "left"}, ("a", "b"))
    bob = votes_of("bob", {"0-1/0": "left", "0-1/1": "right"}, ("a", "b"))
    found = better(ann + bob)
    assert (found["together"][0]["successes"], found["together"][0]["n"]) == (1.5, 2)
    assert {name: shares[0]["successes"] for name, shares in found["voters"].items()} == {"ann": 2, "bob": 1}
    assert found["agreement"] == {"same": 0.5, "chance": 0.75**2 + 0.25**2, "n": 2}
    assert found["left"]["successes"] == 3


def test_three_sides_have_strengths_in_the_order_of_their_wins():
    votes = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        names = ("abc"[i], "abc"[j])
        votes += votes_of("ann", {f"{i}-{j}/{n}": "left" if n < 7 else "right" for n in range(10)}, names)
    found = better(votes, "abc")
    assert [each["side"] for each in found["strengths"]] == ["a", "b", "c"]
    assert found["strengths"][1]["strength"] == pytest.approx(0, abs=1e-9)
    assert len(found["together"]) == 3


def test_the_fool_rate_is_of_the_generated_ones():
    sides = [side("real", NAMES), side("made", NAMES)]
    ballots = make_ballots(Ask.REAL, sides)
    votes = votes_of("ann", {f"0/{i}": "real" if i < 9 else "generated" for i in range(10)}, ("real",))
    votes += votes_of("ann", {"1/0": "real", "1/1": "unsure", "1/2": "generated", "1/3": "generated"}, ("made",))
    real, made = result(Ask.REAL, ["real", "made"], ballots, votes)["together"]
    assert real["rate"] == 0.9
    assert made["rate"] == 0.375
    assert made["what"] == "made called real: its fool rate"


def test_captions_by_side_and_caption_by_caption():
    sides = [side("a", NAMES), side("b", NAMES)]
    ballots = make_ballots(Ask.CAPTION, sides)
    votes = votes_of("ann", {"0/0": "yes", "0/1": "yes", "0/2": "partly"}, ("a",))
    votes += votes_of("ann", {"1/0": "yes", "1/1": "no", "1/3": "no"}, ("b",))
    a, b, paired = result(Ask.CAPTION, ["a", "b"], ballots, votes)["together"]
    assert (a["successes"], b["successes"]) == (2.5, 1)
    assert a["choices"] == {"yes": 2, "partly": 1, "no": 0}
    assert (paired["successes"], paired["n"]) == (1.5, 2)


def test_lines_name_voters_and_a_place_that_is_preferred():
    ballots = make_ballots(Ask.BETTER, [side(name, {str(i): "" for i in range(40)}) for name in "ab"])
    votes = [v for i in range(40) for v in votes_of("ann", {f"0-1/{i}": "left"}, ("a", "b")[:: 1 if i % 2 else -1])]
    lines = result_lines(Ask.BETTER, ["a", "b"], ballots, votes)
    assert lines[0] == "40 votes on 40 of 40 ballots"
    assert "a better than b: 50.0 %" in lines[1]
    assert lines[2] == "  by ann"
    assert lines[3].endswith("voters prefer a place")
    assert result_lines(Ask.BETTER, ["a", "b"], ballots, []) == ["no votes yet"]
