"""The engine seam: how one update of a stage's weights is carried out. The only file that knows DeepSpeed.

`LocalEngine` is plain torch in one process; `DeepSpeedEngine` is the same update over many (ZeRO 0 and 1). A test holds their loss
curves equal. Both take the micro-batches of this rank, whose gradients are averaged over the global batch.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from timm.optim import create_optimizer_v2
from torch import Tensor

from data.batch import Batch

from ..config import TrainConfig
from ..randomness import generator
from ..stage import Losses, Stage


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update did. loss: mean over the global batch; grad_norm before clipping; losses: this rank's, for the log."""

    loss: float
    grad_norm: float
    losses: tuple[Losses, ...]


class NonFiniteError(RuntimeError):
    """Loss or gradient is NaN or infinite, on whichever rank: nothing was applied."""


class Engine(Protocol):
    """One way to carry out updates. rank, world: this process among all; stage: the module whose weights move."""

    rank: int
    world: int
    device: torch.device
    stage: Stage

    def update(self, micro_batches: list[Batch], lr: float) -> Update: ...
    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...
    def barrier(self) -> None: ...
    def close(self) -> None: ...


def make_optimizer(stage: Stage, config: TrainConfig) -> torch.optim.Optimizer:
    return create_optimizer_v2(
        stage, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas
    )


def check_optimizer(config: TrainConfig) -> None:
    """Raises ValueError for a name or settings that timm does not know."""
    try:
        create_optimizer_v2(torch.nn.Linear(1, 1), opt=config.optimizer, lr=config.lr, betas=config.betas)
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise ValueError(
            f"train.optimizer {config.optimizer!r}: {error}; take one of timm's, for instance adamw"
        ) from None


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def check_finite(loss: float, grad_norm: float) -> None:
    """The same verdict on every rank, for both numbers are already global."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise NonFiniteError(f"loss {loss}, gradient norm {grad_norm}")


class LocalEngine:
    """One process, no launcher."""

    rank, world = 0, 1

    def __init__(self, stage: Stage, config: TrainConfig, device: torch.device):
        self.stage, self.config, self.device = stage.to(device), config, device
        self.optimizer = make_optimizer(stage, config)

    def update(self, micro_batches: list[Batch], lr: float) -> Update:
        set_lr(self.optimizer, lr)
        seed_dropout(self.config.seed, micro_batches[0])
        losses = []
        for batch in micro_batches:
            losses.append(self.stage(batch.to(self.device), self.config.seed))
            (losses[-1].loss / len(micro_batches)).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.stage.parameters(), self.config.clip)
        update = Update(loss=mean_loss(losses).item(), grad_norm=norm.item(), losses=tuple(losses))
        check_finite(update.loss, update.grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return update

    def save(self, folder: Path) -> None:
        torch.save({"stage": self.stage.state_dict(), "optimizer": self.optimizer.state_dict()}, folder / "local.pt")

    def load(self, folder: Path) -> None:
        path = folder / "local.pt"
        if not path.exists():
            raise ValueError(
                f"{folder} was written by another engine; resume with --engine deepspeed, or start a new run"
            )
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.stage.load_state_dict(state["stage"])
        self.optimizer.load_state_dict(state["optimizer"])

    def barrier(self) -> None:
        pass

    def close(self) -> None:
        pass


class DeepSpeedEngine:
    """DeepSpeed around the same stage and optimizer. Weights and optimizer state stay float32; the network casts by itself."""

    def __init__(self, stage: Stage, config: TrainConfig, device: torch.device, *, zero: int, micro_batch: int):
        deepspeed = import_deepspeed(device)
        self.stage, self.config, self.device, self.zero = stage, config, device, zero
        init_distributed(deepspeed, device)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.engine, *_ = deepspeed.initialize(
            model=stage,
            optimizer=make_optimizer(stage, config),
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "train_batch_size": config.batch,
                "gradient_clipping": config.clip if zero else 0.0,  # at ZeRO 0 ours, see _verdict
                "zero_optimization": {"stage": zero},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 10**9,
            },
        )

    def update(self, micro_batches: list[Batch], lr: float) -> Update:
        set_lr(self.engine.optimizer, lr)
        seed_dropout(self.config.seed, micro_batches[0])
        losses = []
        for batch in micro_batches:
            losses.append(self.engine(batch.to(self.device), self.config.seed))
            self.engine.backward(losses[-1].loss)
            if batch is micro_batches[-1]:
                loss, norm = self._verdict(losses)
                check_finite(loss, norm)  # before the step: at ZeRO 0 DeepSpeed applies a NaN gradient
            self.engine.step()
        if self.zero:
            norm = float(self.engine.get_global_grad_norm())
            check_finite(loss, norm)  # after the step: ZeRO 1 finds the norm there, and skips what is not finite
        return Update(loss=loss, grad_norm=norm, losses=tuple(losses))

    def _verdict(self, losses: list[Losses]) -> tuple[float, float]:
        """Global mean loss and, at ZeRO 0, the gradient's norm before clipping; NaN anywhere is NaN everywhere."""
        loss = mean_loss(losses).to(self.device)
        dist.all_reduce(loss)
        weights = self.stage.parameters() if self.zero == 0 else []  # ZeRO 1 holds gradients flat and clips by itself
        norm = torch.nn.utils.clip_grad_norm_(weights, self.config.clip)
        return loss.item() / self.world, norm.item()

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(str(folder), tag="deepspeed", save_latest=False)

    def load(self, folder: Path) -> None:
        if not (folder / "deepspeed").is_dir():
            raise ValueError(f"{folder} was written by another engine; resume with --engine local, or start a new run")
        path, _ = self.engine.load_checkpoint(str(folder), tag="deepspeed")
        if path is None:
            raise ValueError(
                f"{folder}: DeepSpeed found nothing to load there; remove that checkpoint to use an older one"
            )

    def barrier(self) -> None:
        dist.barrier()

    def close(self) -> None:
        self.engine.destroy()
        if dist.is_initialized():
            dist.destroy_process_group()


def mean_loss(losses: list[Losses]) -> Tensor:
    return torch.stack([part.loss.detach() for part in losses]).mean()


def seed_dropout(seed: int, batch: Batch) -> None:
    """Dropout is the only draw from torch's global generator; tied to the first image of this rank's part of the update."""
    torch.manual_seed(generator(seed, int(batch.index[0]), "dropout").initial_seed())


def import_deepspeed(device: torch.device):
    """DeepSpeed without its shared-memory operator, which costs a compiler and a minute at the first start on a CPU."""
    import logging

    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


def init_distributed(deepspeed, device: torch.device) -> None:
    """Joins the launcher's group, or makes one of this process alone where there is no launcher."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", verbose=False)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
