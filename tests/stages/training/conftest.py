"""Shards that runs of tests/stages/training read: 48 shapes of 16 px with their kinds as classes, eight shards."""

from pathlib import Path

import pytest
import torch

from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.training.runtime import Runtime

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes_16")
    pack(write_folder(folder / "pictures", 48, 16), folder / "shards", PackSettings(size=16, shards=8), workers=0)
    return folder / "shards"


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """This process, plain torch, on the CPU."""
    return Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
