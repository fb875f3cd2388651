"""Norms on demand: root-mean-square of each weight and of each block's output; the network is built to keep them near 1."""

from typing import Any

import torch
from torch import Tensor, nn

from data.batch import Batch

from ..nets.blocks import Attention
from ..objectives.denoising import DENOISING
from ..objectives.objective import Objective
from ..stage import Stage


def weight_norms(stage: Stage) -> dict[str, float]:
    """`weight_rms/NAME` of every parameter."""
    return {f"weight_rms/{name}": rms(parameter) for name, parameter in stage.named_parameters()}


@torch.no_grad()
def activation_norms(
    stage: Stage, batch: Batch, seed: int = 0, objective: Objective[Any] = DENOISING
) -> dict[str, float]:
    """`activation_rms/NAME` of the outputs of network, blocks and attention, in one forward pass at the objective's levels."""
    metrics: dict[str, float] = {}

    def watch(name: str):
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
            metrics[f"activation_rms/{name}"] = rms(output)

        return hook

    watched = {stage.network, *stage.network.blocks()}
    handles = [
        module.register_forward_hook(watch(name))
        for name, module in stage.named_modules()
        if module in watched or isinstance(module, Attention)
    ]
    try:
        stage(batch, seed, objective=objective)
    finally:
        for handle in handles:
            handle.remove()
    return metrics


def rms(x: Tensor) -> float:
    """Root-mean-square of a tensor."""
    return x.detach().float().square().mean().sqrt().item()
