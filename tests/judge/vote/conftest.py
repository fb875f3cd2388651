"""Folders to vote on, votes as processes, a browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.judge.vote.files import fill
from tests.judge.vote.voting import Voting

NAMES = [f"secret-{i}" for i in range(6)]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder with the sides alpha and beta: six pairs with captions."""
    return filled(tmp_path)


def filled(folder: Path) -> Path:
    captions = [f"caption {i}" for i in range(6)]
    for seed, name in enumerate(("alpha", "beta")):
        fill(folder / name, NAMES, seed=seed, captions=captions)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Voting]:
    """One vote for all tests that do not vote."""
    voting = Voting("alpha", "beta", cwd=filled(tmp_path_factory.mktemp("shared")))
    yield voting
    voting.close()


@pytest.fixture
def start(folders: Path) -> Iterator[Callable[..., Voting]]:
    """start("--option", ...) begins a vote on alpha and beta, or on what is named first."""
    started: list[Voting] = []

    def begin(*words: object, sides: tuple[str, ...] = ("alpha", "beta")) -> Voting:
        started.append(Voting(*sides, *words, cwd=folders))
        return started[-1]

    yield begin
    for each in started:
        each.close()
