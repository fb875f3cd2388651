"""What a stage costs, before a GPU is booked: parameters, FLOPs, memory, size of the bundle. Nothing is allocated or computed.

The real stage is built and run on torch's meta device, whose tensors have shapes and no numbers. 1 FLOP is half a multiply-add;
convolutions and matrix products are counted (torch.utils.flop_counter), attention's among them, element-wise work is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from data.batch import Cond
from stages.build import build_stage
from stages.config import SampleConfig, StageConfig, SuperResConfig
from stages.diffusion.guidance import is_guided
from stages.diffusion.noise import power_grid
from stages.diffusion.samplers import SAMPLERS, drive
from stages.stage import Stage

from .config import CascadeConfig, stage_of

BACKWARD = 3  # a training pass costs three forward passes: one forward, and as much again for each operand's gradient


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """Costs of one stage. Sizes in px, amounts in FLOP and bytes; forward and training are an image's.

    train_size: side of what the network sees in training (the crop); forward_flops there, full_flops at the stage's resolution.
    nfe: sampler's calls an image; rows: network evaluations an image, two for each guided call. activation_bytes: what autograd
    keeps of one micro-batch for the backward pass, with attention in a fused kernel as on a GPU; temporaries come on top.
    """

    parameters: int
    train_size: int
    resolution: int
    forward_flops: int
    full_flops: int
    images: int
    nfe: int
    rows: int
    weight_bytes: int
    bundle_bytes: int
    num_ema: int
    micro_batch: int
    activation_bytes: int

    @property
    def train_flops(self) -> int:
        return BACKWARD * self.forward_flops

    @property
    def sample_flops(self) -> int:
        """To sample one image: nfe x forward, twice that where guided."""
        return self.rows * self.full_flops

    @property
    def adam_bytes(self) -> int:
        """Two float32 moments of each weight."""
        return 2 * self.weight_bytes

    @property
    def ema_bytes(self) -> int:
        return self.num_ema * self.bundle_bytes

    @property
    def train_bytes(self) -> int:
        """Weights, gradients, moments, averages and activations of one training process at ZeRO 0."""
        return 2 * self.weight_bytes + self.adam_bytes + self.ema_bytes + self.activation_bytes


def plan_stage(config: StageConfig) -> StagePlan:
    """The costs of one stage by its config."""
    with torch.device("meta"):
        stage = build_stage(config)
    stage.set_precision(config.train.precision)
    crop = config.crop if isinstance(config, SuperResConfig) else 0
    train_size = crop or config.resolution
    micro_batch = config.train.micro_batch or config.train.batch
    flops, activation_bytes = count_pass(stage, train_size, micro_batch)
    forward_flops = flops // micro_batch
    rows = network_rows(config.sample)
    return StagePlan(
        parameters=sum(p.numel() for p in stage.parameters()),
        train_size=train_size,
        resolution=config.resolution,
        forward_flops=forward_flops,
        full_flops=forward_flops if train_size == config.resolution else count_pass(stage, config.resolution, 1)[0],
        images=config.train.images,
        nfe=len(rows),
        rows=sum(rows),
        weight_bytes=sum(p.nbytes for p in stage.parameters()),
        bundle_bytes=sum(tensor.nbytes for tensor in stage.state_dict().values()),
        num_ema=len(config.train.ema),
        micro_batch=micro_batch,
        activation_bytes=activation_bytes,
    )


def count_pass(stage: Stage, size: int, batch: int) -> tuple[int, int]:
    """FLOPs of denoising `batch` images of size x size, and the bytes that autograd keeps of them.

    Each storage is counted once, parameters are not. bfloat16 copies of weights are kept too and do not grow with the batch.
    """
    with FusedAttention(), FlopCounterMode(display=False) as counter, keep_saved(stage) as saved:
        denoise(stage, size, batch)
    return counter.get_total_flops(), sum(storage.nbytes() for storage in saved.values())


def denoise(stage: Stage, size: int, batch: int) -> Tensor:
    """The stage's denoiser on shapes alone."""
    config = stage.config
    with torch.device("meta"):
        text = config.cond.text
        cond = Cond(
            keep=torch.ones(batch, dtype=torch.bool),
            label=torch.zeros(batch, dtype=torch.int64) if config.cond.num_classes else None,
            text=torch.empty(batch, text.tokens, text.dim) if text else None,
            text_mask=torch.ones(batch, text.tokens, dtype=torch.bool) if text else None,
        )
        x, sigma = torch.empty(batch, config.channels, size, size), torch.empty(batch)
        if isinstance(config, SuperResConfig):
            return stage.denoise(x, sigma, cond, low_res=torch.empty_like(x), aug_sigma=torch.empty(batch))
        return stage.denoise(x, sigma, cond)


@contextmanager
def keep_saved(stage: Stage) -> Iterator[dict[int, torch.UntypedStorage]]:
    """Collects the storages that autograd keeps inside the block. They stay alive, for a freed address may be used again."""
    own = {p.untyped_storage()._cdata for p in stage.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


class FusedAttention(TorchFunctionMode):
    """On the meta device torch would spell attention out and keep its n x n weights, as no GPU kernel does. This puts a fused
    kernel in its place: as many FLOPs, and of its tensors only q, k, v, the output and one number a row are kept."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            mask = kwargs["attn_mask"]
            mask = None if mask is None else mask.to(args[0].dtype)
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, attn_mask=mask)[0]
        return func(*args, **kwargs)


def network_rows(settings: SampleConfig) -> list[int]:
    """Network evaluations of each of the sampler's calls: 2 where guidance acts, else 1. Found by running the sampler."""
    rows: list[int] = []

    def ask(x: Tensor, sigma: Tensor) -> Tensor:
        rows.append(2 if is_guided(settings.guidance_scale, sigma.item(), settings.guidance_interval) else 1)
        return x

    sigmas = power_grid(
        settings.num_steps, sigma_min=settings.sigma_min, sigma_max=settings.sigma_max, rho=settings.rho
    )
    drive(SAMPLERS[settings.sampler](torch.zeros(1, 1, 1, 1), sigmas), ask)
    return rows


def print_plan(config: CascadeConfig, stage: str) -> None:
    """A table of one stage's costs, and a line for the cascade."""
    stage_of(config, stage)
    plans = {name: plan_stage(each) for name, each in config.stages.items()}
    plan = plans[stage]
    trained = config.stages[stage].train
    sampled = config.stages[stage].sample
    print(f"{config.name} / {stage}")
    for what, amount, note in (
        ("parameters", number_text(plan.parameters), ""),
        ("forward, an image", flop_text(plan.forward_flops), f"at {plan.train_size} px"),
        ("training, an image", flop_text(plan.train_flops), f"{BACKWARD} x forward"),
        ("training, whole run", flop_text(plan.train_flops * plan.images), f"{number_text(plan.images)} images"),
        ("sampling, an image", flop_text(plan.sample_flops), sampling_note(plan, sampled)),
        ("weights", bytes_text(plan.weight_bytes), "float32"),
        ("gradients", bytes_text(plan.weight_bytes), "float32"),
        ("optimizer", bytes_text(plan.adam_bytes), "Adam's two moments; ZeRO 1 divides them among the processes"),
        ("EMA", bytes_text(plan.ema_bytes), f"{plan.num_ema} copies"),
        (
            "activations",
            bytes_text(plan.activation_bytes),
            f"estimate; micro-batch {plan.micro_batch}, {trained.precision}, fused attention, no temporaries",
        ),
        ("memory of a process", bytes_text(plan.train_bytes), "sum of the five lines above, at ZeRO 0"),
        ("bundle", bytes_text(plan.bundle_bytes), "on disk"),
    ):
        print(f"  {what:20} {amount:>12}  {note}".rstrip())
    print(
        f"cascade of {len(plans)}: {number_text(sum(p.parameters for p in plans.values()))} parameters, "
        f"{flop_text(sum(p.sample_flops for p in plans.values()))} to sample an image, "
        f"{bytes_text(sum(p.bundle_bytes for p in plans.values()))} of bundles"
    )
    print("1 FLOP = half a multiply-add, convolutions and matrix products only; 1 GB = 10^9 bytes")


def sampling_note(plan: StagePlan, settings: SampleConfig) -> str:
    guided = plan.rows - plan.nfe
    twice = f", {guided} of them guided, which costs two" if guided else ""
    return f"at {plan.resolution} px; {settings.sampler}, {plan.nfe} calls{twice}"


def number_text(number: float) -> str:
    return scaled(number, (("B", 1e9), ("M", 1e6), ("k", 1e3), ("", 1)))


def flop_text(number: float) -> str:
    return scaled(
        number, (("ZFLOP", 1e21), ("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6))
    )


def bytes_text(number: float) -> str:
    return scaled(number, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)))


def scaled(number: float, units: tuple[tuple[str, float], ...]) -> str:
    """Three digits and the largest unit that is not above the number."""
    unit, factor = next((u for u in units if number >= u[1]), units[-1])
    digits = number / factor
    return f"{digits:.{2 if digits < 10 else 1 if digits < 100 else 0}f} {unit}".rstrip()
