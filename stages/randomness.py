"""All randomness is a function of its use: (seed, image index, purpose) -> one generator.

So image k depends neither on its neighbours nor on batch size, ranks, workers or accumulation, resuming needs no saved RNG state,
and two stages never share a stream.
"""

import hashlib

import torch


def generator(seed: int, *purpose: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a fresh generator for one purpose. The seed is hashed, because torch's CPU generator uses only its low 32 bits."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def generators(
    seed: int, index: torch.Tensor, purpose: str, device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One generator an image; index (b,) counts images over the whole run."""
    return [generator(seed, i, purpose, device=device) for i in index.tolist()]
