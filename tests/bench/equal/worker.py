"""What the worker of each system shares: a request in, arrays of pictures, results out. Needs torch and numpy, nothing of ours.

`python WORKER.py REQUEST.json` does one part of one system: `base` or `sr` trains a stage for the budget, `sample` paints. The
result is a JSON file beside the part's weights or pictures, written last: a part with a result is done.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SMALL, LARGE = 16, 64  # px of the two stages
SAMPLE_BATCH = 40


@dataclass(frozen=True, kw_only=True)
class Request:
    """One part. data: folder with train.npy, uint8 (n, 3, 64, 64), and shards; out: folder of this system and seed.

    budget_s: CPU seconds of training; images: train on so many instead (ours only, 0: by the budget); tuned: at its best, not as
    its README runs it; raw: paint with the last weights instead of their average; num: pictures to paint; steps: of the sampler,
    0: the system's own.
    """

    part: str
    data: str
    out: str
    budget_s: float = 0.0
    images: int = 0
    tuned: bool = False
    raw: bool = False
    seed: int = 0
    num: int = 0
    steps: int = 0
    threads: int = 1
    nice: int = 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a stage was trained: images seen, CPU seconds used, parameters, and the precision that the network computed in."""

    images: int
    cpu_s: float
    parameters: int
    precision: str


Train = Callable[[Request], Trained]
Paint = Callable[[Request], Tensor]  # float (num, 3, 64, 64) in [-1, 1]


def run_worker(train: Train, paint: Paint) -> None:
    """Do the part that the file in sys.argv asks for."""
    request = Request(**json.loads(Path(sys.argv[1]).read_text()))
    os.nice(request.nice)
    torch.set_num_threads(request.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(1000 * request.seed + {"base": 1, "sr": 2, "sample": 3}[request.part])
    out = Path(request.out)
    if request.part != "sample":
        return write_result(out / f"{request.part}.json", asdict(train(request)))
    name = "raw" if request.raw else "samples"
    started_at = time.process_time()
    pictures = paint(request)
    spent_s = time.process_time() - started_at
    levels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    write_whole(out / f"{name}.npy", lambda path: np.save(path, levels.numpy()))
    write_result(out / f"{name}.json", {"num": len(levels), "cpu_s": spent_s})


def write_result(path: Path, result: dict) -> None:
    write_whole(path, lambda part: part.write_text(json.dumps(result) + "\n"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside and rename, keeping the suffix, which numpy insists on."""
    part = path.with_name(f"part-{path.name}")
    write(part)
    part.replace(path)


def train_pictures(request: Request) -> Tensor:
    """All pictures of the train split as float (n, 3, 64, 64) in [-1, 1]: decoded once, not counted."""
    return torch.from_numpy(np.load(Path(request.data) / "train.npy")).float() / 127.5 - 1


def batches(pictures: Tensor, size: int, *, flip: bool, seed: int) -> Iterator[Tensor]:
    """Shuffled batches, epoch after epoch, without end."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.long)
    while True:
        while len(rows) < size:
            rows = torch.cat([rows, torch.randperm(len(pictures), generator=generator)])
        batch, rows = pictures[rows[:size]], rows[size:]
        mirrored = torch.rand(size, 1, 1, 1, generator=generator) < 0.5
        yield torch.where(mirrored, batch.flip(3), batch) if flip else batch


def warm_cosine(lr: float, update: int, share: float, warmup: int) -> float:
    """Learning rate: `warmup` updates of linear rise, and a cosine to 0 over the share of the budget that is used."""
    return lr * min(1.0, (update + 1) / warmup) * (1 + math.cos(math.pi * share)) / 2


def num_parameters(net: nn.Module) -> int:
    return sum(each.numel() for each in net.parameters() if each.requires_grad)


def chunks(num: int) -> Iterator[int]:
    """Sizes of the batches in which `num` pictures are painted."""
    for first in range(0, num, SAMPLE_BATCH):
        yield min(SAMPLE_BATCH, num - first)
