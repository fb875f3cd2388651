"""One server for all tests that change nothing, others on request; each on its own port and store."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade.pipeline import Cascade
from tests.serve.serving import Child, Client, Serving, load


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@pytest.fixture(scope="session")
def cascade() -> Cascade:
    return load()


@pytest.fixture(scope="module")
def serving(cascade: Cascade, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    found = Serving(cascade, tmp_path_factory.mktemp("serve") / "store")
    yield found
    found.close()


@pytest.fixture
def client(serving: Serving) -> Client:
    return serving.client


@pytest.fixture
def serve(cascade: Cascade, tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """serve(cascade=..., limits=..., ...) starts one more server."""
    started: list[Serving] = []

    def start(*, cascade: Cascade = cascade, folder: Path = tmp_path / "store", **options: Any) -> Serving:
        started.append(Serving(cascade, folder, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """child("--option", ...) starts `python -m cascade.serve`; they all have one store."""
    started: list[Child] = []

    def start(*options: str, store: Path = tmp_path / "store", before: tuple[str, ...] = ()) -> Child:
        started.append(Child(store, *options, before=before))
        return started[-1]

    yield start
    for each in started:
        each.close()
