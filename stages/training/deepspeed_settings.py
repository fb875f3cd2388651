"""The DeepSpeed JSON: derived from a stage's config, overlaid with the user's own keys where these cannot conflict."""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from ..config import TrainConfig

DECIDED = {  # keys of a DeepSpeed JSON that the stage's config decides, and what decides them
    "train_batch_size": "train.batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.micro_batch",
    "gradient_clipping": "train.clip",
    "optimizer": "train.optimizer",
    "scheduler": "train.schedule",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "torch_autocast": "train.precision",
    "amp": "train.precision",
    "activation_checkpointing": "train.checkpoint_activations",
    "data_types": "train.precision",
    "tensorboard": "the run directory",
    "wandb": "--wandb",
    "checkpoint": "the run directory",
}
THEIRS = (  # keys that a user's file may set
    "aio", "comms_logger", "communication_data_type", "csv_monitor", "disable_allgather", "dump_state", "flops_profiler",
    "gradient_predivide_factor", "memory_breakdown", "prescale_gradients", "steps_per_print", "timers",
    "wall_clock_breakdown", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "zero_optimization",
)  # fmt: skip
REQUIRED_TYPES: dict[str, tuple[type, str]] = {  # required types of values on which DeepSpeed would otherwise crash
    "aio": (dict, "an object"),
    "comms_logger": (dict, "an object"),
    "csv_monitor": (dict, "an object"),
    "flops_profiler": (dict, "an object"),
    "timers": (dict, "an object"),
    "zero_optimization": (dict, "an object"),
    "memory_breakdown": (bool, "true or false"),
    "wall_clock_breakdown": (bool, "true or false"),
    "steps_per_print": (int, "a whole number"),
}


@dataclass(frozen=True, kw_only=True)
class DeepSpeedSettings:
    """Settings of DeepSpeed. zero: ZeRO stage 0 to 3; offload: optimizer state in host memory; user: content of a DeepSpeed JSON
    that overrides derived keys; timeout_s: how long a rank waits for the others before it gives up."""

    zero: int = 0
    offload: bool = False
    user: dict[str, Any] | None = None
    timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        if self.zero not in (0, 1, 2, 3):
            raise ValueError(f"ZeRO stage {self.zero}: allowed are 0, 1, 2 and 3")
        if not 0 < self.timeout_s < 1e9:
            raise ValueError(f"--timeout-s {self.timeout_s:g}: seconds above 0 are needed, for instance 1800")
        if self.offload and self.zero == 0:
            raise ValueError("offload to the CPU needs ZeRO 1, 2 or 3: add --zero 1")
        for key, value in (self.user or {}).items():
            if key in DECIDED:
                raise ValueError(f"DeepSpeed file: {key} is decided by {DECIDED[key]}; remove it there and set that")
            if key not in THEIRS:
                matches = get_close_matches(key, [*THEIRS, *DECIDED], 1)
                raise ValueError(
                    f"DeepSpeed file: unknown key {key!r}" + (f"; did you mean {matches[0]}?" if matches else "")
                )
            kind, description = REQUIRED_TYPES.get(key, (object, ""))
            if not isinstance(value, kind):
                raise ValueError(f"DeepSpeed file: {key} is {value!r}; it must be {description}")
        stage = (self.user or {}).get("zero_optimization", {}).get("stage", self.zero)
        if stage != self.zero:
            raise ValueError(f"DeepSpeed file: zero_optimization.stage is {stage}, --zero is {self.zero}; say the same")

    def derived(self, config: TrainConfig, micro_batch: int) -> dict[str, Any]:
        """The DeepSpeed JSON of a stage's config, with the user's keys on top."""
        zero: dict[str, Any] = {"stage": self.zero}
        if self.offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        settings = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "train_batch_size": config.batch,
            "gradient_clipping": config.clip
            if self.zero
            else 0.0,  # at ZeRO 0 the engine clips, see DeepSpeedEngine.update
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # the same AdamW in both engines; theirs needs a compiler
            "steps_per_print": 10**9,
        }
        return merged(settings, self.user or {})


def read_user_file(path: Path) -> dict[str, Any]:
    """Read the DeepSpeed JSON at `path`. Raises ValueError, OSError."""
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error}); mend it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is needed, this is a {type(content).__name__}")
    return content


def merged(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """`theirs` laid over `mine`, recursively."""
    result = mine | theirs
    for key in mine.keys() & theirs.keys():
        if isinstance(mine[key], dict) and isinstance(theirs[key], dict):
            result[key] = merged(mine[key], theirs[key])
    return result
