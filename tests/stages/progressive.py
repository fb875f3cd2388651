"""An objective that the package does not have: a student whose Euler step does what two of a frozen teacher's do (Salimans and Ho
2022, progressive distillation).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import torch
from pydantic import Field
from pydantic.fields import FieldInfo
from safetensors.torch import load_file
from torch import Tensor, nn

from cascade.config import CascadeConfig
from data.batch import Cond
from data.errors import TAGS
from data.files import file_sha256
from stages.build import build_stage
from stages.bundle import WEIGHTS, Provenance, Sidecar, load_bundle, save_bundle
from stages.config import BaseConfig, SampleConfig, StageConfig, SuperResConfig, TrainConfig
from stages.diffusion.corrupt import add_noise, expand_to
from stages.diffusion.denoiser import weighted_error
from stages.diffusion.noise import power_grid
from stages.draws import Draws
from stages.frozen import Frozen
from stages.objectives.config import ObjectiveConfig
from stages.objectives.denoising_config import DenoisingConfig
from stages.objectives.objective import Denoises, Levels, Objective
from stages.objectives.registry import OBJECTIVES
from stages.stage import Stage
from stages.strict import one_of
from stages.texts import LATER
from tests.stages.tiny import base_config, wake


class ProgressiveConfig(ObjectiveConfig):
    """The student's levels, the teacher's bundle, and the sha256 of its weights."""

    implementation: ClassVar[str] = f"{__name__}:Progressive"
    kind: Literal["progressive"] = "progressive"
    levels: SampleConfig
    teacher: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class Steps(Levels):
    """A step of the student from sigma to end; the teacher's two meet at mid. All (b,)."""

    mid: Tensor
    end: Tensor


def load_teacher(path: Path) -> Stage:
    return load_bundle(path.parent)


class Progressive(Objective[Steps]):
    """See `Objective`."""

    def __init__(self, config: ProgressiveConfig):
        self.grid = config.levels
        self.teacher = Frozen(Path(config.teacher) / WEIGHTS, config.sha256, load_teacher)

    def check(self, config: StageConfig) -> None:
        if config.sample.sampler != "euler":
            raise ValueError(f"sample.sampler {config.sample.sampler}: a student takes steps of euler; set it to euler")
        if not torch.equal(config.sample.sigmas, self.grid.sigmas):
            raise ValueError(
                "sample: a student knows the levels of train.objective.levels alone; write the same in both"
            )
        self.teacher.check()

    def begin(self, stage: nn.Module) -> None:
        stage.load_state_dict(load_file(self.teacher.path))

    def levels(self, stage: Denoises, u: Tensor) -> Steps:
        sample = self.grid
        fine = power_grid(
            2 * sample.num_steps - 1, sigma_min=sample.sigma_min, sigma_max=sample.sigma_max, rho=sample.rho
        )
        step = 2 * (u * (sample.num_steps - 1)).long()  # the last step, to 0, is the teacher's own
        return Steps(sigma=fine[step], mid=fine[step + 1], end=fine[step + 2])

    def loss(self, stage: Denoises, x0: Tensor, cond: Cond, levels: Steps, draws: Draws) -> Tensor:
        x = add_noise(x0, levels.sigma, draws.noise("eps", x0.shape))
        x0_hat = stage.denoise(x, levels.sigma, cond).x0_hat
        return weighted_error(x0_hat, self.target(x, levels, cond), stage.parametrisation.weight(levels.sigma, None))

    @torch.no_grad()
    def target(self, x: Tensor, levels: Steps, cond: Cond) -> Tensor:
        """The x0_hat with which one step ends where two of the teacher do."""
        teacher, there, now = self.teacher.on(x.device), x, levels.sigma
        for level in (levels.mid, levels.end):
            x0_hat = teacher.denoise(there, now, cond).x0_hat
            there, now = x0_hat + expand_to(level / now, x) * (there - x0_hat), level
        share = expand_to(levels.end / levels.sigma, x)
        return (there - share * x) / (1 - share)


@contextmanager
def registered(word: str, config: type[ObjectiveConfig]) -> Iterator[None]:
    """With the line that an objective of the package has in stages/objectives/registry.py."""
    patch = pytest.MonkeyPatch()
    patch.setitem(OBJECTIVES, word, config)
    key = Annotated[one_of(OBJECTIVES, default="denoising"), LATER]
    field = FieldInfo.from_annotated_attribute(key, DenoisingConfig())
    patch.setitem(TrainConfig.model_fields, "objective", field)
    TAGS.add(word)
    rebuild()
    try:
        yield
    finally:
        patch.undo()
        TAGS.discard(word)
        rebuild()


def rebuild() -> None:
    for model in (TrainConfig, BaseConfig, SuperResConfig, Sidecar, CascadeConfig):
        model.model_rebuild(force=True)


def progressive() -> Any:
    return registered("progressive", ProgressiveConfig)


def student_config(folder: Path) -> BaseConfig:
    """Of a student of three steps; its teacher, awake, becomes a bundle at `folder`."""
    torch.manual_seed(0)
    teacher, told = base_config(), Provenance(nimg=0, ema=16, data="none", versions={})
    save_bundle(folder, wake(build_stage(teacher)).state_dict(), config=teacher, text_encoder=None, provenance=told)
    values = base_config(lr=1e-2).model_dump()
    values["sample"] = {"sampler": "euler", "num_steps": 3, "sigma_max": 5.0}
    values["train"]["objective"] = {
        "kind": "progressive",
        "levels": values["sample"],
        "teacher": str(folder),
        "sha256": file_sha256(folder / WEIGHTS),
    }
    return BaseConfig.model_validate(values)


def student(config: BaseConfig) -> Stage:
    torch.manual_seed(1)
    stage = build_stage(config)
    config.train.objective.build().begin(stage)
    return stage
