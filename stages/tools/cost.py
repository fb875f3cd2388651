"""What a stage costs: parameters, FLOPs, memory of a process, size of the bundle. Nothing is allocated or computed.

1 FLOP is half a multiply-add, see counting.py. MFU, model FLOPs utilisation, is the share of a device's peak that the model's own
FLOPs make up (Chowdhery et al. 2022, appendix B).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

import torch

from ..ask import OWN
from ..build import build_stage
from ..config import SampleConfig, StageConfig
from ..guidance import rows_by_call
from .counting import count_pass

BACKWARD = 3  # training costs three forward passes: the forward, and as much again for each operand's gradient
BUCKET = (
    4 * 500_000_000
)  # bytes of the buffer in which DeepSpeed gathers gradients: its default reduce_bucket_size, float32
LIVE = 4 * 1_000_000_000  # bytes of weights that ZeRO 3 keeps gathered at a time: its default max_live_parameters
VARIANT = re.compile(r"\b(MIG|Laptop|Ti|NVL|D|SUPER|Max-Q)\b")  # suffixes of other chips with similar names
PEAKS = {
    "A100": 312e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "L40S": 362e12, "L4": 121e12,
    "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "V100": 125e12,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """Costs of one stage. Sizes in px, amounts in FLOP and bytes; FLOPs of forward and training are per image.

    train_size: side of the network's input in training (the crop); forward_flops at that size, full_flops at the stage's
    resolution. nfe: the sampler's calls per image; rows: network evaluations per image, two for each guided call. kept_bytes:
    what autograd keeps of one micro-batch for the backward pass, checkpointed_bytes: the same with activation checkpointing, at
    its peak; attention in a fused kernel as on a GPU; temporaries come on top.
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
    kept_bytes: int
    checkpointed_bytes: int
    checkpointed: bool

    @property
    def train_flops(self) -> int:
        """FLOP to train on one image: three forward passes."""
        return BACKWARD * self.forward_flops

    @property
    def sample_flops(self) -> int:
        """FLOP to sample one image: nfe x forward, twice that where guided."""
        return self.rows * self.full_flops

    @property
    def adam_bytes(self) -> int:
        """Two float32 moments of each weight."""
        return 2 * self.weight_bytes

    @property
    def ema_bytes(self) -> int:
        """All averages of the weights."""
        return self.num_ema * self.bundle_bytes

    @property
    def activation_bytes(self) -> int:
        """Activations of one micro-batch, with checkpointing if the config says so."""
        return self.checkpointed_bytes if self.checkpointed else self.kept_bytes

    @property
    def train_bytes(self) -> int:
        """Weights, gradients, moments, averages and activations of one training process at ZeRO 0."""
        return self.memory().device

    def memory(self, *, zero: int = 0, world: int = 1, offload: bool = False) -> "Memory":
        """Memory of one of `world` training processes at ZeRO stage 0 to 3, as in DeepSpeed 0.19 with float32 weights.

        ZeRO 1 and 2 update a second copy of this process's part of the weights; 2 partitions the gradients, 3 the weights too, but
        gathers what a layer needs, and everything for the averages, which are never partitioned.
        """
        full, part = self.weight_bytes, -(-self.weight_bytes // world)
        gather_bytes = max(self.activation_bytes + min(full, LIVE), full) - self.activation_bytes if zero == 3 else 0
        master = part if zero in (1, 2) or (zero == 3 and offload) else 0
        moments = 2 * part if zero else self.adam_bytes
        gradients = full if zero < 2 else 0 if offload else part
        return Memory(
            weights=part if zero == 3 else full,
            gradients=gradients,
            optimizer=0 if offload else master + moments,
            ema=self.ema_bytes,
            activations=self.activation_bytes,
            buffers=(BUCKET if zero else 0) + gather_bytes,
            host=(master + moments + part + (part if zero < 3 else 0)) if offload else 0,
        )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one training process: on its device by use, and in host memory. Excludes temporaries and CUDA's own use.

    optimizer: moments, and the copy of weights that it updates. buffers: DeepSpeed's for gradients, and gathered weights.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    buffers: int
    host: int

    @property
    def device(self) -> int:
        """Bytes on the device in total."""
        return self.weights + self.gradients + self.optimizer + self.ema + self.activations + self.buffers


def peak_flops(device: torch.device) -> float | None:
    """Peak FLOP/s of a GPU, dense bfloat16 with float32 sums (V100: float16), from NVIDIA's data sheets; half of the figures
    "with sparsity". None on a CPU and for a GPU that is not in the table: no MFU is better than a wrong one."""
    return named_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def named_peak(name: str) -> float | None:
    """Peak FLOP/s of a GPU by its name in torch, such as "NVIDIA A100-SXM4-80GB"; None if unknown."""
    if VARIANT.search(name):
        return None
    return next((peak for model, peak in PEAKS.items() if re.search(rf"\b{model}\b", name)), None)


def mfu(img_per_s_per_device: float, train_flops: int, peak: float) -> float:
    """Share of the peak (FLOP/s) that training uses: three forward passes an image, recomputation not counted."""
    return img_per_s_per_device * train_flops / peak


def cost_of(config: StageConfig) -> StageCost:
    """Compute the costs of one stage from its config; without a micro_batch, the whole batch is one."""
    with torch.device("meta"):
        stage = build_stage(config.stand_in())
    stage.set_precision(config.train.precision)
    train_size = config.train_size
    micro_batch = config.train.micro_batch or config.train.batch
    flops, kept = count_pass(stage, train_size, micro_batch)
    forward_flops = flops // micro_batch
    rows = network_rows(config.sample, config.cond.names)
    return StageCost(
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
        kept_bytes=kept.bytes,
        checkpointed_bytes=kept.checkpointed_bytes,
        checkpointed=config.train.checkpoint_activations,
    )


def network_rows(
    settings: SampleConfig, names: tuple[str, ...] = (), hosts: Collection[str] = frozenset({OWN})
) -> list[int]:
    """Network evaluations of each of the sampler's calls, of all hosts together: one, and more where guidance acts. names: the
    conditions that training drops."""
    return [sum(rows.values()) for rows in rows_by_call(settings, names, hosts)]
