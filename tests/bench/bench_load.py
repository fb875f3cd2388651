"""A bundle ready to sample, beside what one would do without it: build the network, torch.load, load_state_dict, fold.

    python tests/bench/bench_load.py

30 M parameters, in turns, medians of 15 pairs. Both end with the same folded network; the bundle's sha256 is checked besides.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from machine import describe, table

from stages.bundle import Provenance, load_bundle, save_bundle
from stages.config import BaseConfig
from stages.kinds.base import BaseStage
from stages.nets.unet_config import UNetConfig

CONFIG = BaseConfig(resolution=32, net=UNetConfig(widths=(128, 256, 384), blocks=(2, 2, 3), self_attention=(2,)))
PAIRS = 15
TARGET = 0.5


def main() -> None:
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        weights = BaseStage(CONFIG).state_dict()
        bundle, pickled = Path(folder) / "bundle", Path(folder) / "weights.pt"
        facts = Provenance(nimg=0, ema=1, data="", versions={})
        save_bundle(bundle, weights, config=CONFIG, text_encoder=None, provenance=facts)
        torch.save(weights, pickled)

        def by_hand() -> BaseStage:
            stage = BaseStage(CONFIG)
            stage.load_state_dict(torch.load(pickled, weights_only=True))
            stage.network.fold()
            return stage

        ways: dict[str, Callable[[], BaseStage]] = {"load_bundle": lambda: load_bundle(bundle), "torch.load": by_hand}
        a, b = (dict(way().state_dict()) for way in ways.values())
        assert all(torch.equal(a[name], b[name]) for name in b)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(PAIRS):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                times[name].append(1000 * (time.perf_counter() - started))
    print(table(("", "ms"), [(name, f"{median(each):.0f}") for name, each in times.items()]))
    ratio = median(ours / theirs for ours, theirs in zip(times["load_bundle"], times["torch.load"], strict=True))
    print(f"load_bundle / torch.load: {ratio:.2f}; target {TARGET}: {'reached' if ratio <= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
