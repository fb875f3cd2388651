"""`python -m cascade.judge vote`: what it says in advance, at the end, and of mistakes."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.judge.vote.command import vote_main
from tests.calling import call
from tests.judge.vote.files import fill

ROOT = Path(__file__).parents[3]
SHIPPED = ROOT / "cascade" / "shipped" / "emoji_tiny"


def test_it_says_in_advance_what_so_many_pairs_can_show(start):
    voting = start("--claim", 80)
    assert voting.lines[-2:] == [
        "6 ballots, 6 pairs of each two sides; with 95 % confidence:",
        "  more than 80 %: 6 votes cannot show it; 16 can, if all agree",
    ]


def test_the_result_without_a_page(start, folders, capsys, monkeypatch):
    voting = start()
    for voter in ("ann", "bob"):
        for choice in ("left", "tie", "right"):
            voting.vote(voter, choice)
    shown = voting.end()
    monkeypatch.chdir(folders)
    capsys.readouterr()
    assert call(vote_main, "alpha", "beta", "--result", "--json", "out.json") == 0
    assert capsys.readouterr().out.splitlines() == shown
    told = json.loads((folders / "out.json").read_text())
    assert sorted(told["voters"]) == ["ann", "bob"]
    assert told["votes"] == 6


def test_a_result_while_the_vote_goes_on(start, folders, capsys, monkeypatch):
    start().vote("ann", "left")
    monkeypatch.chdir(folders)
    assert call(vote_main, "alpha", "beta", "--result") == 0
    assert "1 votes on 1 of 6 ballots" in capsys.readouterr().out


def test_a_second_process_is_refused_and_so_is_a_taken_port(start, folders, capsys, monkeypatch):
    start()
    monkeypatch.chdir(folders)
    assert call(vote_main, "alpha", "beta") == 2
    assert "--votes votes.jsonl: another process works there" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert call(vote_main, "alpha", "beta", "--votes", "other.jsonl", "--port", port) == 2
    assert (
        capsys.readouterr().err
        == f"error: --port {port}: Address already in use; choose another, or leave it out for a free one\n"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("alpha",), "vote alpha: --ask better needs 2 sides or more"),
        (("alpha", "alpha/"), "vote: alpha is named twice"),
        (("alpha", "gamma"), "gamma is not there; name a folder of pictures"),
        (("alpha", "beta", "--claim", "100"), "--claim 100: a rate in %"),
        (("alpha", "beta", "--port", "70000"), "--port 70000: 0 to 65535"),
        (("alpha", "beta", "--votes", "no/v.jsonl"), "no/v.jsonl: there is no folder no"),
        (("alpha", "beta", "--voter", "x" * 50), "voter: a name of 1 to 40"),
        (("alpha", "other"), "alpha, other: neither a name nor a caption"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(folders, capsys, monkeypatch, words, told):
    fill(folders / "other", ["x"], seed=3)
    monkeypatch.chdir(folders)
    before = sorted(folders.iterdir())
    assert call(vote_main, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {told}")
    assert error.count("\n") == 1
    assert sorted(folders.iterdir()) == before


def test_a_broken_picture_is_named_and_the_rest_is_voted_on(start, folders):
    (folders / "alpha" / "secret-3.png").write_bytes(b"broken")
    voting = start()
    assert voting.lines[0].startswith("note: alpha/secret-3.png is left out: no JPEG, PNG")
    assert voting.post("/next", voter="ann").json()["total"] == 5


def test_real_pictures_against_a_cascade(folders, capsys, monkeypatch):
    """It is sampled by the captions of the other side, once: with the second command there is nothing to do."""
    fill(folders / "real", ["1", "2"], seed=0, captions=["red heart", "green apple"])
    monkeypatch.chdir(folders)
    for _ in range(2):
        assert call(vote_main, "real", SHIPPED, "--ask", "real", "--device", "cpu", "--result") == 0
        told = capsys.readouterr()
        assert told.out == "no votes yet\n"
    assert "nothing to do: all 2 images are there" in told.err
    assert len(list((folders / "votes.samples" / "1").glob("*.png"))) == 2


def test_two_cascades_get_the_same_prompts(folders, capsys, monkeypatch):
    (folders / "copy").symlink_to(SHIPPED)
    (folders / "prompts.txt").write_text("red heart\ngreen apple\n")
    monkeypatch.chdir(folders)
    words = (SHIPPED, "copy", "--prompts-file", "prompts.txt", "--device", "cpu", "--result")
    assert call(vote_main, *words) == 0
    one, other = (sorted((folders / "votes.samples" / each).glob("*.png")) for each in "01")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert len(one) == 2


def test_a_page_needs_no_torch():
    line = "import sys, cascade.judge.__main__, cascade.judge.vote.server, cascade.judge.vote.result; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
