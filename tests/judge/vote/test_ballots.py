"""Pairs, order and sides."""

import pytest

from cascade.judge.vote.ballots import Ask, make_ballots, order_for, shown_to
from cascade.judge.vote.sides import Picture, Side


def side(name: str, pictures: dict[str, str]) -> Side:
    rows = (Picture(name=each, path=None, caption=text, sha256=f"{name}{each}") for each, text in pictures.items())
    return Side(name=name, pictures=tuple(rows))


NUMBERS = {f"{i:03d}": "" for i in range(200)}


def test_sides_and_order_are_drawn_for_each_voter_and_stay():
    ballots = make_ballots(Ask.BETTER, [side("a", NUMBERS), side("b", NUMBERS)])
    ann, bob = (order_for(voter, ballots, 0) for voter in ("ann", "bob"))
    assert len(ballots) == 200
    assert ann == order_for("ann", ballots, 0)
    assert sorted(each.key for each in ann) == sorted(each.key for each in bob)
    assert ann != bob
    assert ann != order_for("ann", ballots, 1)
    turned = [shown_to("ann", each, 0) == (1, 0) for each in ballots]
    assert 70 < sum(turned) < 130  # 100 ± 4 standard deviations
    alike = sum(shown_to("ann", each, 0) == shown_to("bob", each, 0) for each in ballots)
    assert 70 < alike < 130


def test_three_sides_are_compared_two_by_two():
    ballots = make_ballots(Ask.BETTER, [side(name, {"1": "", "2": ""}) for name in "abc"])
    assert [each.key for each in ballots] == ["0-1/1", "0-1/2", "0-2/1", "0-2/2", "1-2/1", "1-2/2"]


def test_num_takes_the_same_pairs_of_all_sides():
    ballots = make_ballots(Ask.BETTER, [side(name, NUMBERS) for name in "abc"], num=5)
    assert len(ballots) == 15
    assert len({each.item for each in ballots}) == 5


def test_names_pair_unless_one_has_two_captions():
    a, b = side("a", {"0": "cat", "1": "dog"}), side("b", {"0": "dog", "1": "cat"})
    (first, second) = make_ballots(Ask.BETTER, [a, b])
    assert [each.name for each in first.pictures] == ["0", "1"]
    assert first.caption == "cat"
    assert second.caption == "dog"
    (first, _) = make_ballots(Ask.BETTER, [a, b], by="name")
    assert [each.name for each in first.pictures] == ["0", "0"]
    assert first.caption == ""


def test_equal_captions_pair_in_order():
    a, b = side("a", {"x": "cat", "y": "cat"}), side("b", {"1": "cat", "2": "cat", "3": "cat"})
    ballots = make_ballots(Ask.BETTER, [a, b])
    assert [tuple(p.name for p in each.pictures) for each in ballots] == [("x", "1"), ("y", "2")]


def test_as_many_real_ones_as_generated():
    ballots = make_ballots(Ask.REAL, [side("real", NUMBERS), side("made", {"x": "", "y": "", "z": ""})])
    assert [each.sides for each in ballots] == [(0,)] * 3 + [(1,)] * 3


def test_what_cannot_be_asked_is_one_line():
    a, b = side("a", {"1": ""}), side("b", {"2": ""})
    with pytest.raises(ValueError, match="a, b: neither a name nor a caption of a picture is in all of them"):
        make_ballots(Ask.BETTER, [a, b])
    with pytest.raises(ValueError, match="no name of a picture is in all of them"):
        make_ballots(Ask.BETTER, [a, b], by="name")
    with pytest.raises(ValueError, match="1 is 'cat' and 'dog', and no caption is in all"):
        make_ballots(Ask.BETTER, [side("a", {"1": "cat"}), side("b", {"1": "dog"})])
    with pytest.raises(ValueError, match="a: no picture has a caption"):
        make_ballots(Ask.CAPTION, [a])
    with pytest.raises(ValueError, match="--pair size: allowed are auto, name, caption"):
        make_ballots(Ask.BETTER, [a, b], by="size")
    with pytest.raises(ValueError, match="--num -1"):
        make_ballots(Ask.BETTER, [a, a], num=-1)
