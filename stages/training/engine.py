"""The engine interface: how one update of a stage's weights is carried out.

`LocalEngine` is plain torch in one process; `DeepSpeedEngine` (deepspeed_engine.py) is the same update over many. A test checks
that their loss curves are equal. Both take the micro-batches of this rank, whose gradients are averaged over the global batch, and
share one format of state, so that each can load the other's checkpoint at any world size and ZeRO stage.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data.batch import Batch

from ..config import TrainConfig
from ..losses import Losses
from ..objectives.objective import Objective
from ..randomness import generator
from ..stage import Stage

State = dict[str, Tensor]
"""The whole state of a training by name, unpartitioned, on the CPU: `weights/NAME`, `optimizer/NAME/KEY` (a 0-dimensional int64
stands for a Python int), under fp16 `loss_scale`, and `objective/NAME` of what an objective learns. A checkpoint
stores it as it is."""

WEIGHTS, OPTIMIZER, LOSS_SCALE, OBJECTIVE = "weights/", "optimizer/", "loss_scale", "objective/"


@dataclass(frozen=True, kw_only=True)
class Update:
    """Result of one update. loss: mean over the global batch; grad_norm: before clipping; losses: this rank's, for the log.

    applied: False if loss or gradient was not finite on some rank; then no weight, moment or step count has changed on any.
    """

    loss: float
    grad_norm: float
    losses: tuple[Losses, ...]
    applied: bool = True


class Engine(Protocol):
    """A way to carry out updates. rank, world: this process among all; stage: the trained module; objective: its objective.

    state, load, any, total, barrier and the context `whole` are collective: every rank calls them, in the same order.
    """

    rank: int
    world: int
    device: torch.device
    stage: Stage
    objective: Objective[Any]

    def update(self, micro_batches: list[Batch], lr: float) -> Update:
        """Carry out one update on this rank's micro-batches."""
        ...

    def state(self) -> State:
        """Collect the whole state on rank 0; other ranks get an empty one."""
        ...

    def load(self, state: State) -> None:
        """Load a whole state, on every rank."""
        ...

    def whole(self) -> AbstractContextManager[object]:
        """Context in which the stage's parameters are unpartitioned."""
        ...

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is raised on some rank."""
        ...

    def total(self, numbers: Tensor) -> Tensor:
        """Sum a tensor over all ranks."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...

    def close(self) -> None:
        """Release the process group and other resources."""
        ...


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al. 2018): halved on overflow, doubled after `every` good updates in a row."""

    def __init__(self, precision: str, start: float = 2.0**16, every: int = 1000):
        self.dynamic, self.every = precision == "fp16", every
        self.scale, self.good = (start if self.dynamic else 1.0), 0

    def update(self, applied: bool) -> None:
        """Adapt the scale to an update that was applied or skipped."""
        if not self.dynamic:
            return
        self.good = self.good + 1 if applied else 0
        if not applied:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good == self.every:
            self.scale, self.good = self.scale * 2, 0

    def state(self) -> State:
        """The scale and the count of good updates; {} without fp16."""
        return {LOSS_SCALE: torch.tensor([self.scale, self.good], dtype=torch.float64)} if self.dynamic else {}

    def load(self, state: State) -> None:
        """Restore `state`, if there is one."""
        if self.dynamic and LOSS_SCALE in state:
            self.scale, self.good = state[LOSS_SCALE][0].item(), int(state[LOSS_SCALE][1])


class LocalEngine:
    """An `Engine` of one process without a launcher."""

    rank, world = 0, 1

    def __init__(self, stage: Stage, config: TrainConfig, device: torch.device):
        self.stage, self.config, self.device = stage.to(device), config, device
        self.objective = config.objective.build()
        self.optimizer = make_optimizer(stage, config)
        self.scaler = LossScale(config.precision)

    def update(self, micro_batches: list[Batch], lr: float) -> Update:
        """Carry out one update; skipped if loss or gradient is not finite."""
        set_lr(self.optimizer, lr)
        seed_dropout(self.config.seed, micro_batches[0])
        losses = []
        for batch in micro_batches:
            losses.append(self.stage(batch.to(self.device), self.config.seed, objective=self.objective))
            (losses[-1].loss * (self.scaler.scale / len(micro_batches))).backward()
        norm = unscale_and_clip(self.stage, self.scaler.scale, self.config.clip)
        loss, grad_norm = torch.stack([mean_loss(losses), norm]).tolist()
        applied = math.isfinite(loss) and math.isfinite(grad_norm)
        if applied:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.update(applied)
        return Update(loss=loss, grad_norm=grad_norm, losses=tuple(losses), applied=applied)

    def state(self) -> State:
        """The whole state, copied to the CPU."""
        extra = self.scaler.state() | learned(self.objective)
        return weights_of(self.stage) | optimizer_state(self.optimizer, self.stage) | extra

    def load(self, state: State) -> None:
        """Load a whole state."""
        load_weights(self.stage, state)
        load_optimizer(self.optimizer, self.stage, state)
        self.scaler.load(state)
        load_learned(self.objective, state)

    def whole(self) -> AbstractContextManager[object]:
        """Does nothing: parameters are never partitioned."""
        return nullcontext()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """The flags themselves."""
        return flags

    def total(self, numbers: Tensor) -> Tensor:
        """The tensor itself."""
        return numbers

    def barrier(self) -> None:
        """Does nothing."""
        pass

    def close(self) -> None:
        """Does nothing."""
        pass


def make_optimizer(stage: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Make the optimizer that the config names, one of timm's."""
    from timm.optim import create_optimizer_v2  # importing timm takes four seconds; user errors are reported before

    return create_optimizer_v2(
        stage, opt=config.optimizer, lr=config.lr, weight_decay=config.weight_decay, betas=config.betas
    )


def check_optimizer(config: TrainConfig, *, elementwise: bool) -> None:
    """Raise ValueError for a name or settings unknown to timm, and, if `elementwise` (ZeRO 1 to 3 pass the optimizer flattened
    partitions), for an optimizer that works on whole matrices, such as Muon and LAMB."""
    try:
        make_optimizer(nn.Linear(1, 1), config)
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise ValueError(
            f"train.optimizer {config.optimizer!r}: {error}; take one of timm's, for instance adamw"
        ) from None
    if elementwise and not is_elementwise(config):
        raise ValueError(
            f"train.optimizer {config.optimizer!r} works on whole matrices, ZeRO 1 to 3 hold them in flat pieces; "
            "use --zero 0, or adamw"
        )


def is_elementwise(config: TrainConfig) -> bool:
    """Whether updating a matrix equals updating its flat halves separately; tried on an 8 x 8 matrix."""
    generator = torch.Generator().manual_seed(0)
    weight, gradients = torch.randn(8, 8, generator=generator), torch.randn(3, 8, 8, generator=generator)

    def updated(weight: Tensor, gradients: Tensor) -> Tensor:
        module = nn.Module()
        module.weight = nn.Parameter(weight.clone())
        optimizer = make_optimizer(module, config)
        for module.weight.grad in gradients:
            optimizer.step()
        return module.weight.detach().flatten()

    chunks = zip(weight.flatten().split(32), gradients.flatten(1).split(32, dim=1), strict=True)
    return torch.equal(updated(weight, gradients), torch.cat([updated(*chunk) for chunk in chunks]))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def unscale_and_clip(stage: Stage, scale: float, clip: float) -> Tensor:
    """Divide the gradients by the loss scale and clip them; return their norm () before clipping."""
    gradients = [p.grad for p in stage.parameters() if p.grad is not None]
    if scale != 1:
        torch._foreach_div_(gradients, scale)
    return torch.nn.utils.clip_grad_norm_(stage.parameters(), clip)


def weights_of(stage: Stage) -> State:
    """The stage's weights as part of a state."""
    return {WEIGHTS + name: to_cpu(tensor) for name, tensor in stage.state_dict().items()}


def load_weights(stage: Stage, state: State) -> None:
    """Load the weights of a state."""
    stage.load_state_dict(weights_in(state))


def weights_in(state: State) -> dict[str, Tensor]:
    """The weights of a state under their own names."""
    return {name.removeprefix(WEIGHTS): tensor for name, tensor in state.items() if name.startswith(WEIGHTS)}


def learned(objective: Objective[Any]) -> State:
    """What an objective has learned, as part of a state."""
    return {OBJECTIVE + name: to_cpu(tensor) for name, tensor in objective.state().items()}


def load_learned(objective: Objective[Any], state: State) -> None:
    """Reverse `learned`; does nothing for a state without it, as after a change of objective."""
    learned_state = {
        name.removeprefix(OBJECTIVE): tensor for name, tensor in state.items() if name.startswith(OBJECTIVE)
    }
    if learned_state:
        objective.load(learned_state)


def optimizer_state(optimizer: torch.optim.Optimizer, stage: Stage) -> State:
    """State of an unpartitioned optimizer by parameter name."""
    return {
        f"{OPTIMIZER}{name}/{key}": to_cpu(value) if isinstance(value, Tensor) else torch.tensor(value)
        for name, parameter in stage.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, stage: Stage, state: State) -> None:
    """Reverse `optimizer_state`; torch moves each tensor to its parameter's device."""
    names = {parameter: name for name, parameter in stage.named_parameters()}
    ordered_names = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    optimizer_states = by_parameter(state)
    indexed = {index: optimizer_states[name] for index, name in enumerate(ordered_names) if name in optimizer_states}
    optimizer.load_state_dict({"state": indexed, "param_groups": optimizer.state_dict()["param_groups"]})


def by_parameter(state: State) -> dict[str, dict[str, Any]]:
    """{parameter: {key: value}} of the optimizer's part of a state, copied, because torch's optimizers keep what they load."""
    states: dict[str, dict[str, Any]] = {}
    for full_name, tensor in state.items():
        if full_name.startswith(OPTIMIZER):
            name, _, key = full_name.removeprefix(OPTIMIZER).rpartition("/")
            is_int = tensor.ndim == 0 and tensor.dtype == torch.int64
            states.setdefault(name, {})[key] = int(tensor) if is_int else tensor.clone()
    return states


def to_cpu(tensor: Tensor) -> Tensor:
    """Copy to the CPU, unaffected by later updates."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def mean_loss(losses: list[Losses]) -> Tensor:
    """Mean loss () of micro-batches, detached."""
    return torch.stack([part.loss.detach() for part in losses]).mean()


def seed_dropout(seed: int, batch: Batch) -> None:
    """Seed torch's global generator, which only dropout uses, by the first image of this rank's part of the update."""
    torch.manual_seed(generator(seed, int(batch.index[0]), "dropout").initial_seed())
