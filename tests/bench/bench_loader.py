"""How many pictures a second the loader gives: `python tests/bench/bench_loader.py PACKED_FOLDER [RESOLUTION]`."""

import sys
import time

from data.shards import Reader

WARM, NUM = 64, 200  # batches
BATCH = 64


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


def main(folder: str, resolution: int = 16) -> None:
    for text_tokens in (0, 16, 32):
        for workers in (0, 1, 2):
            reader = Reader(source=folder, batch=BATCH, resolution=resolution, workers=workers, text_tokens=text_tokens)
            print(f"{text_tokens:2d} text tokens, {workers} workers: {measure(reader):6.0f} img/s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
