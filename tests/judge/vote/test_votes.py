"""The votes file survives a kill at any byte, and is not taken for another vote's."""

import json

import pytest

from cascade.judge.vote.ballots import Ask, make_ballots
from cascade.judge.vote.sides import load_side
from cascade.judge.vote.votes import Vote, VotesFile, check_voter, head_of
from tests.judge.vote.files import fill


@pytest.fixture
def sides(tmp_path):
    return [load_side(str(fill(tmp_path / name, ["1", "2", "3"], seed=seed))) for seed, name in enumerate("ab")]


@pytest.fixture
def opened(sides, tmp_path):
    ballots = make_ballots(Ask.BETTER, sides)
    return lambda ask=Ask.BETTER, seed=0, sides=sides: VotesFile(
        tmp_path / "v.jsonl", head_of(ask, sides, seed), ballots
    )


def vote(ballot: str, choice: str = "left", voter: str = "ann") -> Vote:
    return Vote(voter=voter, ballot=f"0-1/{ballot}", shown=("b", "a"), choice=choice, at=1.5)


def test_cut_at_any_byte_the_whole_votes_stay(opened, tmp_path):
    file = opened()
    file.start()
    for each in (vote("1"), vote("2", "tie"), vote("1", "right", "bob")):
        file.add(each)
    content = (tmp_path / "v.jsonl").read_bytes()
    for end in range(len(content) + 1):
        (tmp_path / "v.jsonl").write_bytes(content[:end])
        again = opened()
        assert len(again.votes) == max(0, content[:end].count(b"\n") - 1)
        if end % 40 == 0:
            again.start()
            again.add(vote("3"))
            assert opened().votes == again.votes


def test_a_reading_changes_nothing(opened, tmp_path):
    file = opened()
    file.start()
    file.add(vote("1"))
    with (tmp_path / "v.jsonl").open("ab") as torn:
        torn.write(b'{"voter": "ann", "ball')
    before = (tmp_path / "v.jsonl").read_bytes()
    assert opened().votes == [vote("1")]
    assert (tmp_path / "v.jsonl").read_bytes() == before


def test_an_undo_is_of_the_voter_who_asks(opened):
    file = opened()
    file.start()
    file.add(vote("1"))
    file.add(vote("2"))
    file.add(vote("1", voter="bob"))
    assert file.undo("ann") == "0-1/2"
    assert file.undo("eve") is None
    assert opened().votes == file.votes == [vote("1"), vote("1", voter="bob")]
    file.add(vote("2", "tie"))
    assert opened().votes == [vote("1"), vote("1", voter="bob"), vote("2", "tie")]


def test_votes_on_other_pictures_are_refused(opened, sides, tmp_path):
    opened().start()
    with pytest.raises(ValueError, match="its votes are of --seed 0, not 1"):
        opened(seed=1)
    with pytest.raises(ValueError, match="its votes are of --ask better, not real"):
        opened(ask=Ask.REAL)
    with pytest.raises(ValueError, match="the sides stand in another order"):
        opened(sides=sides[::-1])
    fill(tmp_path / "b", ["1"], seed=9)
    with pytest.raises(ValueError, match=r"/b has other pictures; name another file with --votes"):
        opened(sides=[sides[0], load_side(str(tmp_path / "b"))])


@pytest.mark.parametrize(
    "line", [b"[1]", b"no json", b'{"voter": "ann"}', b'{"vote": 1}', b"\xff", b"5", b"[" * 100_000]
)
def test_a_damaged_line_is_named(opened, tmp_path, line):
    opened().start()
    with (tmp_path / "v.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=r"v\.jsonl line 2 is no vote"):
        opened()


def test_a_choice_that_is_none_is_no_vote(opened, tmp_path):
    file = opened()
    file.start()
    file.add(vote("1", "both"))
    with pytest.raises(ValueError, match="line 2 is no vote"):
        opened()


@pytest.mark.parametrize("content", [b"a shopping list", b"a shopping list\n", b'{"vote": 9, "ask": "better"}\n'])
def test_another_file_is_not_written_into(opened, tmp_path, content):
    (tmp_path / "v.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"v\.jsonl"):
        opened()
    assert (tmp_path / "v.jsonl").read_bytes() == content


def test_a_line_is_plain(opened, tmp_path):
    file = opened()
    file.start()
    file.add(vote("1"))
    head, line = map(json.loads, (tmp_path / "v.jsonl").read_text().splitlines())
    assert line == {"voter": "ann", "ballot": "0-1/1", "shown": ["b", "a"], "choice": "left", "at": 1.5}
    assert head["ask"] == "better"


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 41, None, 5, "\u202eann"])
def test_a_name_is_one_line(name):
    with pytest.raises(ValueError, match="voter: a name of 1 to 40"):
        check_voter(name)
