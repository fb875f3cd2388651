"""One server for all tests that change nothing, others on request; each on its own port and store."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cascade.pipeline import Cascade
from cascade.serve.http.keys import Keys
from cascade.serve.http.limits import Limits
from tests.programs import BROWSER, NGINX
from tests.serve import keyed, streams
from tests.serve.nginx import Nginx
from tests.serve.serving import Child, Client, Serving, load, slowed

WAIT_MS = 150_000


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
def slow(serve) -> Serving:
    """Every call takes `streams.CALL_S` longer."""
    return serve(cascade=slowed(load(), streams.CALL_S), limits=Limits(abandon_s=0.3), max_waiting=8)


@pytest.fixture
def two(serve):
    """serving, alice, bob; calls are slow."""
    with contextlib.ExitStack() as stack:

        def start(**options):
            serving = serve(**({"cascade": slowed(load(), keyed.CALL_S), "keys": Keys(keyed.BOTH)} | options))
            clients = (stack.enter_context(keyed.of(serving, key)) for key in (keyed.ALICE, keyed.BOB))
            return serving, *clients

        yield start


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


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """nginx("location / {...}") is a real nginx with these blocks."""
    if NGINX.path is None:
        pytest.skip(NGINX.missing)
    started: list[Nginx] = []

    def start(*blocks: str) -> Nginx:
        started.append(Nginx(tmp_path / f"nginx-{len(started)}", *blocks))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER.path is None:
        pytest.skip(BROWSER.missing)
    names = (
        "--host-resolver-rules=MAP *.example 127.0.0.1"  # a page of one is no "secure context", as on a network at home
    )
    options = ["--no-sandbox", "--disable-dev-shm-usage", names]  # root; a container with 64 MB of shared memory
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=BROWSER.path, args=options)
        yield found
        found.close()


@pytest.fixture
def said() -> list[str]:
    """Errors, warnings and dialogs of all pages of a test; what a test expects it clears."""
    return []


def is_trouble(message: Any) -> bool:
    """On plain http beyond loopback every browser says that it leaves one of our headers alone."""
    return (
        message.type in ("error", "warning")
        and "Cross-Origin-Opener-Policy header has been ignored" not in message.text
    )


@pytest.fixture
def visit(browser: Any, said: list[str]) -> Iterator[Callable[..., Any]]:
    """visit(url) is a page in a context of its own, when the form is there."""
    contexts = []

    def open_(url: str, *, ready: str = "#ask:not([hidden])", **options: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda message: said.append(message.text) if is_trouble(message) else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        page.goto(url)
        page.wait_for_selector(ready)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []
