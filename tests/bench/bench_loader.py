"""How many pictures a second the loader gives: `python tests/bench/bench_loader.py PACKED_FOLDER [RESOLUTION]`.

`... PACKED_FOLDER places` compares the folder with the same shards from a web server on loopback (another process), with an empty
cache and a full one: the first epoch with the opening, each in a process of its own, in turns whose order alternates; medians.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from data.places.address import Access
from data.read.mixture import Mixture
from data.read.shards import Reader

WARM, NUM = 64, 200  # batches
BATCH = 64
TURNS = 10
SERVE = """
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=sys.argv[1]))
print(server.server_port, flush=True)
server.serve_forever()
"""


def measure(reader: Reader) -> float:
    """Images a second after the first `WARM` batches."""
    batches = reader.batches()
    for _ in range(WARM):
        next(batches)
    started = time.perf_counter()
    num = sum(len(next(batches)) for _ in range(NUM))
    elapsed_s = time.perf_counter() - started
    batches.close()  # type: ignore[attr-defined]
    return num / elapsed_s


def first_epoch(place: str, cache: str) -> float:
    """Images a second of the first epoch, from opening the data set on."""
    started = time.perf_counter()
    reader = Reader(places=Mixture(((place, 1.0),), Access(cache_dir=Path(cache))), batch=BATCH, resolution=16)
    total = reader.index.num_images["train"]
    batches, num = reader.batches(), 0
    while num < total:
        num += len(next(batches))
    return num / (time.perf_counter() - started)


def in_process(place: str, cache: str) -> float:
    """`first_epoch` where nothing is kept from an earlier one."""
    command = [sys.executable, __file__, "first-epoch", place, cache]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare_places(folder: str) -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVE, folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}"
    rates: dict[str, list[float]] = {"folder": [], "HTTP, empty cache": [], "HTTP, full cache": []}
    try:
        for turn in range(TURNS):
            with tempfile.TemporaryDirectory() as cache:
                visits = list(zip(rates, (folder, url, url), strict=True))
                for name, place in visits if turn % 2 else [*visits[1:], visits[0]]:
                    rates[name].append(in_process(place, cache))
    finally:
        server.terminate()
        server.wait()
    for name, found in rates.items():
        print(f"{name:18s} {median(found):6.0f} img/s, first epoch ({min(found):.0f} to {max(found):.0f})")


def main(folder: str, resolution: int = 16) -> None:
    for text_tokens in (0, 16, 32):
        for workers in (0, 1, 2):
            reader = Reader(places=folder, batch=BATCH, resolution=resolution, workers=workers, text_tokens=text_tokens)
            print(f"{text_tokens:2d} text tokens, {workers} workers: {measure(reader):6.0f} img/s", flush=True)


if __name__ == "__main__":
    if sys.argv[2:] == ["places"]:
        compare_places(sys.argv[1])
    elif sys.argv[1] == "first-epoch":
        print(first_epoch(*sys.argv[2:]))
    else:
        main(sys.argv[1], *map(int, sys.argv[2:]))
