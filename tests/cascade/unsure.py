"""Cascades whose stages predict a variance: as networks begin, where it is that of normal data, and in folders."""

from pathlib import Path

from cascade.config import CascadeConfig
from cascade.engine.host import own_host
from cascade.pipeline import Cascade, Link
from stages.build import build_stage
from tests.cascade.chains import sidecar, tiny_config, write_cascade

BOTH = ("base_8", "sr_16")


def unsure_config(able: tuple[str, ...] = BOTH) -> CascadeConfig:
    """base_8 -> sr_16, of which these were trained with learned_variance."""
    config = tiny_config(num_steps=4, sampler="euler")
    stages = {}
    for name, stage in config.stages.items():
        values = stage.model_dump()
        if name in able:
            values["learned_variance"], values["train"]["objective"] = True, {"kind": "hybrid"}
        stages[name] = type(stage).model_validate(values)
    return config.model_copy(update={"stages": stages})


def fresh(able: tuple[str, ...] = BOTH) -> Cascade:
    """Networks that answer zero, so that Var(x0 | x) is 1 / P, P the parametrisation's weight."""
    return Cascade(
        [
            Link(
                name=name,
                hosts=own_host(name, build_stage(config).eval()),
                sidecar=sidecar(config),
                settings=config.sample,
            )
            for name, config in unsure_config(able).stages.items()
        ]
    )


def write_unsure(folder: Path, able: tuple[str, ...] = BOTH) -> Path:
    return write_cascade(folder, unsure_config(able))
