"""Rotary positions: a product of a query and a key depends on the offset between them, so larger pictures have known ones."""

import torch
from torch.testing import assert_close

from stages.nets.rotary import THETA, rotated, rotations

HEAD = 16


def products(rows: int, cols: int, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """(n, n): one query and one key (d,), put at every pair of tokens."""
    turn = rotations(rows, cols, HEAD, q.device)
    turned_q, turned_k = (rotated(each.expand(rows * cols, HEAD), turn) for each in (q, k))
    return turned_q @ turned_k.T


def test_a_product_depends_on_the_offset_alone(generator):
    """And is the sum over the planes of |q| |k| cos(angle between them + speed times the offset along its axis)."""
    q, k = torch.randn(2, HEAD, generator=generator)
    found = products(4, 5, q, k).reshape(4, 5, 4, 5)
    assert_close(found[1:, 2:, 1:, 2:], found[:-1, :-2, :-1, :-2], rtol=1e-4, atol=1e-4)
    assert_close(products(8, 9, q, k).reshape(8, 9, 8, 9)[:4, :5, :4, :5], found, rtol=1e-4, atol=1e-4)
    speed = THETA ** (-torch.arange(4) / 4)
    planes = torch.complex(*q.chunk(2)) * torch.complex(*k.chunk(2)).conj()
    down, right = -2, 3  # of the query from the key
    angles = torch.cat([down * speed, right * speed])
    assert_close(found[1, 4, 3, 1], (planes * torch.polar(torch.ones(8), angles)).real.sum(), rtol=1e-4, atol=1e-4)


def test_tokens_before_the_picture_are_not_rotated(generator):
    turn = rotations(2, 3, HEAD, torch.device("cpu"), before=2)
    x = torch.randn(8, HEAD, generator=generator)
    made = rotated(x, turn)
    assert torch.equal(made[:2], x[:2])
    assert_close(made.norm(dim=-1), x.norm(dim=-1))
