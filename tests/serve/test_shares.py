"""Nobody who has a key can starve another one: turns, places in the queue, uploads and bodies are shared."""

import contextlib
import io
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from cascade.conditions import Conditions
from cascade.serve.http.limits import Limits
from cascade.serve.jobs.turns import Turns
from tests.serve.keyed import ALICE, LONG
from tests.serve.serving import FEW, WAIT_S, Client, around, b64, load, until


def test_a_heavy_request_does_not_hold_up_another_key_s(two):
    """More than a call has room for is under way when bob comes; he has his picture when none of it is done."""
    _, alice, bob = two()
    heavy = [alice.start(num=64, settings=LONG, seed=k)["url"] for k in range(3)]
    until(lambda: alice.get(heavy[0]).json()["state"] == "running")
    assert bob.run()["state"] == "finished"
    assert not any(stage["done"] for url in heavy for stage in alice.get(url).json()["stages"])
    for url in heavy:
        alice.delete(url)


def test_a_key_that_fills_the_queue_refills_it_for_itself(two):
    _, alice, bob = two(max_waiting=8)
    jobs = [alice.start(num=4, settings=LONG)["url"] for _ in range(2)]
    answer = alice.post("/v1/jobs", json={"prompts": ["x"]})
    assert (answer.status_code, alice.error(answer)) == (429, "queue_full")
    assert bob.run(num=4)["state"] == "finished"
    for url in jobs:
        alice.delete(url)


def test_prompts_are_encoded_when_the_queue_was_looked_at(two, monkeypatch):
    _, alice, _ = two(max_waiting=4, keys=None)
    encoded = []
    of_request = Conditions.of
    monkeypatch.setattr(Conditions, "of", lambda *given: encoded.append(1) or of_request(*given))
    job = alice.start(num=4, settings=LONG)
    for _ in range(3):
        assert alice.post("/v1/jobs", json={"prompts": ["x"] * 4, "settings": FEW}).status_code == 429
        assert alice.post("/v1/images/generations", json={"prompt": "x"}).status_code == 429
    assert len(encoded) == 1
    alice.delete(job["url"])


@pytest.mark.matrix
def test_uploads_of_one_key_are_decoded_in_turn_with_another_s(two):
    """Ten large pictures of alice wait when bob sends one."""
    out = io.BytesIO()
    Image.new("RGB", (3000, 3000), "red").save(out, "PNG")
    body = {"image": b64(out.getvalue()), "fit": True, "settings": FEW}
    _, alice, bob = two(cascade=load())
    ended: list[str] = []

    def send(client: Client, name: str) -> None:
        assert client.post("/v1/jobs", json=body).status_code == 202
        ended.append(name)

    with ThreadPoolExecutor(11) as pool:
        sent = [pool.submit(send, alice, "alice") for _ in range(10)]
        until(lambda: ended, WAIT_S)
        sent.append(pool.submit(send, bob, "bob"))
        for each in sent:
            each.result()
    assert ended.index("bob") <= 6


def test_bodies_that_one_key_holds_leave_room_for_another_s(two):
    """Ten bodies of alice that do not end; bob's upload is read meanwhile."""
    serving, _, bob = two(limits=Limits(body_bytes=4 << 20, bodies_bytes=16 << 20))
    head = "POST /v1/jobs HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {ALICE}\r\ncontent-length: {4 << 20}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", serving.port), timeout=WAIT_S))
            with contextlib.suppress(OSError):  # refused in the midst of it
                connection.sendall(head.encode() + bytes(3 << 20))
        until(lambda: serving.app._bodies["alice"] >= 6 << 20)
        answer = bob.post("/v1/jobs", json={"prompts": ["x"], "image": "A" * (3 << 20)})
        assert answer.status_code == 422, answer.text
        until(lambda: serving.app._reading <= 9 << 20, WAIT_S)
    until(lambda: serving.app._reading == 0, WAIT_S)


def test_who_asks_for_more_than_memory_holds_does_not_make_the_server_unready(serve):
    def fail(found: torch.Tensor, sigma: torch.Tensor) -> None:
        if found.shape[-1] > 100:
            raise MemoryError("cannot allocate memory")

    serving = serve(cascade=around(load(), fail))
    for _ in range(4):
        assert serving.client.run(size=[128, 128])["error"]["code"] == "out_of_memory"
    assert serving.client.get("/readyz").status_code == 200


def test_a_queue_in_turns():
    turns: Turns[str] = Turns()
    for owner, items in (("a", "123456"), ("b", "xy"), ("c", "z")):
        for item in items:
            turns.put(owner, item)
    assert "".join(turns.get() or "" for _ in range(5)) == "1xz2y"
    got: list[str | None] = []
    reader = threading.Thread(target=lambda: got.extend(iter(turns.get, None)))
    reader.start()
    turns.put("d", "!")
    turns.close()
    reader.join(WAIT_S)
    assert sorted(got) == sorted("3456!")
