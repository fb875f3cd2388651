"""What is the transformer's own: what its head makes of a token, within a patch or across the seams. The rest is in
test_contract.py."""

import pytest
import torch

from stages.nets.dit import DiT
from stages.nets.dit_config import DiTConfig
from stages.nets.ports import Ports
from tests.stages.tiny import wake

PATCH, ROWS, COLS = 4, 3, 5


@pytest.mark.parametrize(("head", "reach"), [("linear", 0), ("conv", 1)])
def test_the_convolutional_head_alone_crosses_the_seams(head, reach, generator):
    """A token that changes changes its own patch, and by a convolution one pixel around it, on every side."""
    torch.manual_seed(0)
    config = DiTConfig(width=32, depth=1, head_dim=16, patch=PATCH, head=head)
    net = wake(DiT(config, Ports(inputs=3, outputs=3)))
    tokens = torch.randn(1, ROWS * COLS, 32, generator=generator)
    other = tokens.clone()
    other[:, COLS + 2] += 1  # row 1, column 2
    with torch.no_grad():
        moved = (net._picture(other, ROWS, COLS) - net._picture(tokens, ROWS, COLS)).abs().amax((0, 1)) > 0
    expected = torch.zeros(ROWS * PATCH, COLS * PATCH, dtype=torch.bool)
    expected[PATCH - reach : 2 * PATCH + reach, 2 * PATCH - reach : 3 * PATCH + reach] = True
    assert torch.equal(moved, expected)
