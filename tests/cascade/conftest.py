"""One thread and no denormals: numbers are reproducible, and a zero gain is not thirty times slower on a CPU."""

import pytest
import torch

from .chains import tiny


@pytest.fixture(autouse=True, scope="session")
def _reproducible():
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@pytest.fixture(scope="module")
def networks():
    """base_8 -> sr_16 -> sr_32, random weights, three classes."""
    return tiny(8, 16, 32, classes=3, num_steps=4)
