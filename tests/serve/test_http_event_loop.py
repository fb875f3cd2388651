"""The event loop is not blocked: no async route without await, probes are answered while jobs run."""

import ast
import time
from pathlib import Path

import pytest

from stages import sampling
from tests.serve.serving import MANY, ROOT, Client, load, slowed
from tests.serve.streams import CALL_S, streaming


def routes(source: Path) -> list[ast.AsyncFunctionDef]:
    return [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.AsyncFunctionDef)]


@pytest.mark.parametrize("source", sorted((ROOT / "cascade" / "serve").rglob("*.py")), ids=lambda path: path.stem)
def test_no_async_route_lacks_an_await(source: Path):
    """It would hold the event loop; what has nothing to wait for is a plain function and runs in a worker thread."""
    for function in routes(source):
        waits = [n for n in ast.walk(function) if isinstance(n, ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Yield)]
        assert waits, f"{source.name}:{function.lineno} {function.name}"


def test_the_search_for_async_routes_finds_some():
    assert {"events", "generate"} <= {each.name for each in routes(ROOT / "cascade" / "serve" / "api" / "app.py")}


def test_the_event_loop_is_not_blocked(serve):
    """/healthz while the engine works and pictures are encoded and written."""
    serving = serve()
    jobs = [serving.client.start(num=8, settings=MANY)["id"] for _ in range(4)]
    spent = []
    with streaming(serving.client, jobs[0]) as events:
        next(events)
        with Client(base_url=serving.url) as other:
            other.get("/healthz")
            for _ in range(40):
                began = time.perf_counter()
                assert other.get("/healthz").status_code == 200
                spent.append(time.perf_counter() - began)
                time.sleep(0.02)
        assert serving.engine.waiting > 0
    assert sorted(spent)[len(spent) // 2] < 0.05, spent
    for job in jobs:
        serving.client.delete(f"/v1/jobs/{job}")


def test_a_client_that_leaves_does_not_block_the_event_loop(serve, monkeypatch):
    """Leaving cancels, which needs the engine's lock."""
    serving = serve(cascade=slowed(load(), CALL_S))
    draw = sampling.image_noise
    monkeypatch.setattr(sampling, "image_noise", lambda *given: time.sleep(0.5) or draw(*given))
    spent = []
    with Client(base_url=serving.url) as other:
        for seed in range(3):
            body = {"prompt": "red heart", "n": 2, "stream": True, "seed": seed}
            with serving.client.stream("POST", "/v1/images/generations", json=body):
                pass
            began = time.perf_counter()
            other.get("/healthz")
            spent.append(time.perf_counter() - began)
    assert max(spent) < 0.3, spent


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head(client: Client):
    """Head and body are two writes; with Nagle's delay each answer takes 40 ms."""
    client.get("/healthz")
    spent = []
    for _ in range(20):
        began = time.perf_counter()
        client.get("/healthz")
        spent.append(time.perf_counter() - began)
    assert sorted(spent)[10] < 0.025, spent
