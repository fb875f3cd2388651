"""How much serving many at once brings: a real server, its clients in this other process, on loopback.

    python tests/bench/bench_serve.py [--cascade FOLDER] [--seconds 20] [-- --precision bf16]

Clients ask for one picture each and follow its events to the end, again and again; alone, then 16 at once; for the whole chain and
for the base stage alone; then 16 at once where each job has two watchers more that never read. What comes after -- goes to the
server. Prints throughput, its ratio, and when first previews came.
"""

import argparse
import contextlib
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
PROMPTS = ("red heart", "blue square", "grinning face", "green apple")


def one_picture(client: httpx.Client, number: int, until: str, stalled: int = 0) -> tuple[float, float]:
    """(seconds to the first preview, seconds in all) of one job. stalled: watchers besides who never read."""
    began, first = time.perf_counter(), 0.0
    body = {"prompts": [PROMPTS[number % len(PROMPTS)]], "num": 1, "seed": number} | ({"until": until} if until else {})
    job = client.post("/v1/jobs", json=body).raise_for_status().json()
    with contextlib.ExitStack() as left, client.stream("GET", job["events"]) as stream:
        for _ in range(stalled):
            left.enter_context(never_reads(client.base_url, job["events"]))
        for line in stream.iter_lines():
            if line == "event: preview" and not first:
                first = time.perf_counter() - began
            if line in ("event: finished", "event: held"):
                return first, time.perf_counter() - began
            if line in ("event: failed", "event: cancelled"):
                raise RuntimeError(f"job {job['id']}: {line}")
    raise RuntimeError(f"job {job['id']}: the stream ended early")


@contextlib.contextmanager
def never_reads(url: httpx.URL, path: str) -> Iterator[None]:
    """A connection that asks for a stream and leaves it in the kernel's smallest buffer."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        connection.connect((url.host, url.port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {url.host}\r\n\r\n".encode())
        yield


def load(address: str, clients: int, seconds: float, until: str, stalled: int = 0) -> dict[str, float]:
    """What `clients` see that ask for `seconds`; the first second is not counted."""
    seen: list[tuple[float, float, float]] = []
    begin = time.perf_counter()

    def ask(number: int) -> None:
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
            while time.perf_counter() < begin + 1 + seconds:
                first, total = one_picture(client, number, until, stalled)
                seen.append((time.perf_counter(), first, total))
                number += clients

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = [each for each in seen if begin + 1 < each[0] <= begin + 1 + seconds]
    first, total = (statistics.median(each[k] for each in counted) for k in (1, 2))
    return {"per_s": len(counted) / seconds, "first_s": first, "total_s": total}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cascade", default=str(ROOT / "cascade" / "shipped" / "emoji_tiny"))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("server", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-m", "cascade.serve", "--cascade", given.cascade, "--port", "0", "--store", store]
        server = subprocess.Popen([*command, *given.server], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            found = next((m for line in server.stdout if (m := re.search(r"http://\S+", line))), None)
            assert found, "the server did not start"
            address = found[0].rstrip("/")
            model = httpx.get(f"{address}/v1/models", trust_env=False).json()["data"][0]
            base = model["cascade"]["stages"][0]["name"]
            for until, what in (("", "whole chain"), (base, f"until {base}")):
                load(address, given.clients, 2, until)
                alone, many = load(address, 1, given.seconds, until), load(address, given.clients, given.seconds, until)
                print(
                    f"{what}: alone {alone['per_s']:.2f} img/s, {given.clients} clients {many['per_s']:.2f} img/s, "
                    f"ratio {many['per_s'] / alone['per_s']:.2f}"
                )
                for name, each in (("alone", alone), (f"{given.clients} clients", many)):
                    share = each["first_s"] / each["total_s"]
                    print(f"  {name}: first preview {each['first_s']:.3f} s, all {each['total_s']:.3f} s, {share:.0%}")
                print(json.dumps({"what": what, "alone": alone, "many": many}), flush=True)
            many, stalled = (load(address, given.clients, given.seconds, "", k) for k in (0, 2))
            print(
                f"two watchers a job that never read: {stalled['per_s']:.2f} img/s against {many['per_s']:.2f} without, "
                f"ratio {stalled['per_s'] / many['per_s']:.2f}"
            )
        finally:
            server.terminate()
            server.wait(60)


if __name__ == "__main__":
    main()
