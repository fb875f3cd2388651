"""This process, plain torch, on the CPU."""

import pytest
import torch

from stages.training.runtime import Runtime


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
