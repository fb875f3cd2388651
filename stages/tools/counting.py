"""One forward pass on shapes alone: its FLOPs, and what autograd keeps, with and without activation checkpointing.

The real stage runs on torch's meta device, where tensors have shapes but no data. 1 FLOP is half a multiply-add; convolutions
and matrix products are counted (torch.utils.flop_counter), including those of attention; element-wise work is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ..conditions.likely import likely_cond
from ..stage import Stage

Storages = dict[int, torch.UntypedStorage]


@dataclass
class Kept:
    """Storages that autograd keeps: inside each block, outside of the blocks, and the blocks' inputs. They stay alive here, because
    a freed address may be reused."""

    blocks: list[Storages] = field(default_factory=list)
    outside: Storages = field(default_factory=dict)
    inputs: Storages = field(default_factory=dict)
    current: Storages | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all storages, each counted once."""
        storages = self.outside.copy()
        for block in self.blocks:
            storages |= block
        return size_of(storages)

    @property
    def checkpointed_bytes(self) -> int:
        """Bytes with each block recomputed in the backward pass: all inputs are kept, and the inside of one block at a time."""
        base = self.outside | self.inputs
        largest = max((size_of({k: v for k, v in block.items() if k not in base}) for block in self.blocks), default=0)
        return size_of(base) + largest


def size_of(storages: Storages) -> int:
    """Bytes of all storages."""
    return sum(storage.nbytes() for storage in storages.values())


def count_pass(stage: Stage, size: int, batch: int) -> tuple[int, Kept]:
    """FLOPs of denoising `batch` images of size x size px, and what autograd keeps.

    Each storage is counted once, parameters are not. bfloat16 copies of weights are kept too and do not grow with the batch.
    """
    with FusedAttention(), FlopCounterMode(display=False) as counter, keep_saved(stage) as kept:
        denoise(stage, size, batch)
    return counter.get_total_flops(), kept


def denoise(stage: Stage, size: int, batch: int) -> Tensor:
    """Run the stage's denoiser on shapes alone."""
    config = stage.config
    with torch.device("meta"):
        x = torch.empty(batch, *config.shape((size, size)))
        return stage.denoise(x, torch.empty(batch), likely_cond(config, x)).x0_hat


@contextmanager
def keep_saved(stage: Stage) -> Iterator[Kept]:
    """Collect the storages that autograd keeps within the context."""
    parameters = {p.untyped_storage()._cdata for p in stage.parameters()}
    kept = Kept()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            (kept.outside if kept.current is None else kept.current)[storage._cdata] = storage
        return tensor

    def enter(_: Any, inputs: tuple) -> None:
        kept.inputs |= {t.untyped_storage()._cdata: t.untyped_storage() for t in inputs if isinstance(t, Tensor)}
        kept.blocks.append({})
        kept.current = kept.blocks[-1]

    def leave(*_: Any) -> None:
        kept.current = None

    blocks = list(stage.network.blocks())
    handles = [b.register_forward_pre_hook(enter) for b in blocks] + [b.register_forward_hook(leave) for b in blocks]
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield kept
    finally:
        for handle in handles:
            handle.remove()


class FusedAttention(TorchFunctionMode):
    """Replaces attention by a fused kernel: the same FLOPs, but autograd keeps only q, k, v, the output and one number a row.

    On the meta device torch would write attention out and keep its n x n weights, unlike any GPU kernel.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            mask = kwargs["attn_mask"]
            mask = None if mask is None else mask.to(args[0].dtype)
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, attn_mask=mask)[0]
        return func(*args, **kwargs)
