"""Loss curves of a tiny base and a tiny super-resolution stage that a refactoring must not move.

float32, one thread, eager; 20 updates of 8 images. Meant to change only together with the mathematics: then run this file as a
script, look at the difference, and say in the commit why it moved.
"""

import pytest
import torch

from stages.build import build_stage
from stages.config import StageConfig
from stages.training.engine import LocalEngine
from stages.training.schedule import lr_at
from tests.stages.tiny import base_config, shapes_batch, sr_config, wake

NUM = 20
SETTINGS = {"images": NUM * 8, "warmup": 40, "schedule": "cosine", "lr": 1e-2}
CONFIGS: dict[str, tuple[StageConfig, int]] = {"base": (base_config(**SETTINGS), 8), "sr": (sr_config(**SETTINGS), 16)}
GOLDEN = {
    "base": [
        2.28459, 2.20918, 1.98735, 1.82337, 1.51502, 1.35762, 1.45371, 1.54983, 1.36393, 1.28026,
        1.20727, 1.16920, 1.11599, 1.22878, 1.22373, 1.05410, 1.21002, 1.10045, 1.09252, 1.07233,
    ],
    "sr": [
        1.51611, 1.63743, 1.80278, 1.47841, 1.43905, 1.49646, 1.28078, 1.52911, 1.45040, 1.40583,
        1.11969, 1.44175, 1.44350, 1.52930, 1.29420, 1.22590, 1.07496, 1.19750, 1.39125, 1.17785,
    ],
}  # fmt: skip


def curve(config: StageConfig, size: int) -> list[float]:
    torch.manual_seed(0)
    engine = LocalEngine(wake(build_stage(config)), config.train, torch.device("cpu"))
    positions = range(0, NUM * 8, 8)
    return [engine.update([shapes_batch(8, size, start=nimg)], lr_at(config.train, nimg)).loss for nimg in positions]


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_golden_curve(kind):
    """0.2 % of each loss; with the CPU's vector instructions switched off it moves by less than 1e-4."""
    assert curve(*CONFIGS[kind]) == pytest.approx(GOLDEN[kind], rel=2e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print({kind: [round(loss, 5) for loss in curve(*given)] for kind, given in CONFIGS.items()})
