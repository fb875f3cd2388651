"""DeepSpeed behind the engine interface; the only file that imports it."""

import logging
import math
import os
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data.batch import Batch

from ..config import TrainConfig
from ..losses import Losses
from ..stage import Stage
from .deepspeed_settings import DeepSpeedSettings
from .engine import (
    OPTIMIZER,
    WEIGHTS,
    LossScale,
    State,
    Update,
    by_parameter,
    learned,
    load_learned,
    load_optimizer,
    load_weights,
    make_optimizer,
    mean_loss,
    optimizer_state,
    seed_dropout,
    set_lr,
    to_cpu,
    unscale_and_clip,
    weights_of,
)


class DeepSpeedEngine:
    """An `Engine` that runs the same stage and optimizer under DeepSpeed. Weights and optimizer state stay float32; the network
    casts by itself."""

    def __init__(
        self, stage: Stage, config: TrainConfig, device: torch.device, *, micro_batch: int, settings: DeepSpeedSettings
    ):
        deepspeed = import_deepspeed(device)
        self.stage, self.config, self.device, self.zero = stage, config, device, settings.zero
        init_distributed(deepspeed, device, settings.timeout_s)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.objective = config.objective.build()
        self.optimizer = make_optimizer(stage, config)
        self.scaler = LossScale(config.precision)
        derived = settings.derived(config, micro_batch)
        try:
            self.engine, *_ = deepspeed.initialize(model=stage, optimizer=self.optimizer, config=derived)
        except (
            AssertionError,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            deepspeed.DeepSpeedConfigError,
        ) as error:
            if not settings.user:
                raise
            raise ValueError(f"DeepSpeed file: DeepSpeed refuses it ({' '.join(str(error).split())})") from error

    def update(self, micro_batches: list[Batch], lr: float) -> Update:
        """Carry out one update on this rank's micro-batches. A non-finite loss or gradient on any rank skips it on all."""
        set_lr(self.engine.optimizer, lr)
        seed_dropout(self.config.seed, micro_batches[0])
        if self.zero and self.scaler.dynamic:
            self.engine.optimizer.loss_scaler.cur_scale = self.scaler.scale  # ZeRO scales, unscales and clips by itself
        losses = []
        for batch in micro_batches:
            losses.append(self.engine(batch.to(self.device), self.config.seed, objective=self.objective))
            self.engine.backward(losses[-1].loss * (1.0 if self.zero else self.scaler.scale))
            if batch is not micro_batches[-1]:
                self.engine.step()  # counts micro-batches, moves nothing
        loss, norm = self._loss_and_norm(losses)
        if not self.zero and not (math.isfinite(loss) and math.isfinite(norm)):
            self.stage.zero_grad(set_to_none=True)  # ZeRO 0 would apply them; a step without gradients moves nothing
        self.engine.step()
        if self.zero:  # the step computes the norm, and skips itself if that is not finite
            norm = float(self.engine.get_global_grad_norm())
        applied = math.isfinite(loss) and math.isfinite(norm)
        self.scaler.update(applied)
        return Update(loss=loss, grad_norm=norm, losses=tuple(losses), applied=applied)

    def _loss_and_norm(self, losses: list[Losses]) -> tuple[float, float]:
        """Global mean loss and, at ZeRO 0, the gradient's norm before clipping; NaN on any rank becomes NaN on all."""
        loss = mean_loss(losses).to(self.device)
        dist.all_reduce(loss)
        if self.zero:
            return loss.item() / self.world, 0.0
        norm = unscale_and_clip(self.stage, self.scaler.scale, self.config.clip)
        return loss.item() / self.world, norm.item()

    def state(self) -> State:
        """Collect the whole state on rank 0; other ranks get an empty one."""
        if self.zero == 0:
            full_state = weights_of(self.stage) | optimizer_state(self.optimizer, self.stage) if self.rank == 0 else {}
        else:
            full_state = self._gathered()
        return full_state | self.scaler.state() | learned(self.objective) if self.rank == 0 else {}

    def _gathered(self) -> State:
        """Every parameter with its optimizer state, gathered from the ranks one parameter at a time."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        keys, scalars = self._remembered()
        state = {WEIGHTS + name: to_cpu(buffer) for name, buffer in self._buffers().items()}
        for name, parameter in self.stage.named_parameters():
            for state_key, tensor in (
                (WEIGHTS + name, safe_get_full_fp32_param(parameter)),
                *((f"{OPTIMIZER}{name}/{key}", safe_get_full_optimizer_state(parameter, key)) for key in keys),
            ):
                if self.rank == 0:
                    state[state_key] = to_cpu(tensor)
            state |= {f"{OPTIMIZER}{name}/{key}": torch.as_tensor(value).clone() for key, value in scalars.items()}
        return state if self.rank == 0 else {}

    def _remembered(self) -> tuple[list[str], dict[str, Any]]:
        """Names of the flat tensors in the optimizer's state, and its scalar entries, which all parameters share."""
        keys: list[str] = []
        scalars: dict[str, Any] = {}
        for flat in self._flat():
            for key, value in self.engine.optimizer.optimizer.state.get(flat, {}).items():
                if isinstance(value, Tensor) and value.shape == flat.shape:
                    keys += [] if key in keys else [key]
                else:
                    scalars[key] = value
        return keys, scalars

    def _buffers(self) -> dict[str, Tensor]:
        """Entries of the state dict that are no parameters; ZeRO does not partition them."""
        parameters = dict(self.stage.named_parameters())
        return {name: tensor for name, tensor in self.stage.state_dict().items() if name not in parameters}

    def _flat(self) -> list[Tensor]:
        """The flat fp32 partitions that this rank's optimizer updates."""
        zero = self.engine.optimizer
        return zero.fp32_partitioned_groups_flat if self.zero == 3 else zero.single_partition_of_fp32_groups

    def load(self, state: State) -> None:
        """Load a whole state, on every rank."""
        if self.zero == 0:
            load_weights(self.stage, state)
            load_optimizer(self.optimizer, self.stage, state)
        else:
            self._scatter(state)
        self.scaler.load(state)
        load_learned(self.objective, state)

    def _scatter(self, state: State) -> None:
        """Reverse `_gathered`: each rank takes its partitions."""
        by_name = by_parameter(state)
        example = next(iter(by_name.values()), {})
        keys = [key for key, value in example.items() if isinstance(value, Tensor) and value.ndim]
        inner = self.engine.optimizer.optimizer
        for flat in self._flat():
            inner.state[flat] = {
                key: torch.zeros_like(flat) if key in keys else value.clone() if isinstance(value, Tensor) else value
                for key, value in example.items()
            }
        if self.zero == 3:
            return self._scatter3(state, by_name, keys)
        from deepspeed.utils import (
            lazy_init_hp_params_optimizer_state,
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
        )

        load_weights(self.stage, state)
        if keys:
            for group, flat in zip(self.engine.optimizer.bit16_groups, self._flat(), strict=True):
                lazy_init_hp_params_optimizer_state(group, flat, inner.state)
        for name, parameter in self.stage.named_parameters():
            safe_set_full_fp32_param(parameter, state[WEIGHTS + name].to(self.device))
            for key in keys:
                safe_set_full_optimizer_state(parameter, by_name[name][key].to(self.device), key)

    def _scatter3(self, state: State, remembered: dict[str, dict[str, Any]], keys: list[str]) -> None:
        """`_scatter` for ZeRO 3."""
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        for name, buffer in self._buffers().items():
            buffer.copy_(state[WEIGHTS + name])
        with self.whole(change=True):
            for name, parameter in self.stage.named_parameters():
                parameter.data.copy_(state[WEIGHTS + name])
        for name, parameter in self.stage.named_parameters():
            safe_set_local_fp32_param(parameter, self._piece(state[WEIGHTS + name], parameter))
            for key in keys:
                safe_set_local_optimizer_state(parameter, self._piece(remembered[name][key], parameter), key)

    def _piece(self, whole: Tensor, parameter: Any) -> Tensor:
        """This rank's partition of a ZeRO-3 tensor: equal parts, the last padded with zeros."""
        length = parameter.ds_tensor.numel()
        padded = torch.nn.functional.pad(whole.flatten(), (0, length * self.world - whole.numel()))
        return padded.narrow(0, length * self.rank, length).to(self.device)

    def whole(self, change: bool = False) -> AbstractContextManager[object]:
        """Context in which the stage's parameters are unpartitioned."""
        if self.zero != 3:
            return nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(self.stage.parameters()), modifier_rank=0 if change else None)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is raised on some rank."""
        reduced = torch.tensor(flags, dtype=torch.uint8, device=self.device)
        dist.all_reduce(reduced, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in reduced.tolist())

    def total(self, numbers: Tensor) -> Tensor:
        """Sum a tensor over all ranks."""
        summed = numbers.to(self.device, copy=True)
        dist.all_reduce(summed)
        return summed

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()

    def close(self) -> None:
        """Destroy DeepSpeed's engine and the process group."""
        self.engine.destroy()
        if dist.is_initialized():
            dist.destroy_process_group()


def import_deepspeed(device: torch.device):
    """Import DeepSpeed without its shared-memory operator, which costs a compiler and a minute at the first start on a CPU."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


def init_distributed(deepspeed, device: torch.device, timeout_s: float) -> None:
    """Join the launcher's process group, or make a group of one without a launcher."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", str(free_port()))
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_s)
    deepspeed.init_distributed(backend, verbose=False, timeout=timeout)
    communicator = (
        deepspeed.comm.comm.cdb
    )  # creates ZeRO's process groups, with torch's own time-out of 10 or 30 minutes unless patched
    communicator.new_group = partial(dist.new_group, timeout=timeout)


def free_port() -> int:
    """A free port on loopback, outside the system's ephemeral range: such a port could be taken before it is used."""
    import random
    import socket

    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port from 20000 to 31999 on 127.0.0.1")
