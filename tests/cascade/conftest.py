"""One thread and no denormals: numbers are reproducible, and a zero gain is not thirty times slower on a CPU."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _reproducible():
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
