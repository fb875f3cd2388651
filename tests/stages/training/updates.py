"""One small training that every engine must carry out alike: NUM updates of the tiny base stage, MICRO images a forward."""

import torch

from data.batch import Batch
from stages.config import TrainConfig
from stages.kinds.base import BaseStage
from tests.stages.tiny import base_config, shapes_batch, wake

NUM, BATCH, MICRO = 5, 8, 4
HALF_LIFE = 16  # of the average, in images


def config() -> TrainConfig:
    return base_config(lr=1e-2).train


def build() -> BaseStage:
    """The same weights in every process."""
    torch.manual_seed(0)
    return wake(BaseStage(base_config(lr=1e-2)))


def global_batch(k: int) -> Batch:
    """The images of update k, at the stage's size."""
    return shapes_batch(BATCH, 8, start=k * BATCH)


def lr_of(k: int) -> float:
    return 1e-2 * (1 - k / 10)
