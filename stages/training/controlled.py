"""The base of a control net: which bundle it is, whether it fits, and the copy of its encoder that training starts from."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from ..bundle import read_sidecar
from ..config import StageConfig
from .rundir import differences, shapes

ALIKE = (
    "kind", "resolution", "channels", "space", "low_res", "low_res_sigma", "aug", "learned_variance", "parametrisation", "net",
)  # fmt: skip
OF_TRAINING = ("drop", "drop_each", "maps", "noise")  # of `cond`: no weight of the base depends on it
CONV_IN = "net.conv_in.weight"


def beside(config: StageConfig) -> StageConfig:
    """The config with the sha256 of its control net's base. Raises ValueError if the base does not fit, by name."""
    if config.controlnet is None:
        return config
    folder = config.controlnet.base
    sidecar = read_sidecar(Path(folder))
    if config.controlnet.sha256 not in ("", sidecar.sha256):
        raise ValueError(
            f"controlnet.base {folder}: its weights have sha256 {sidecar.sha256[:12]}..., controlnet.sha256 is "
            f"{config.controlnet.sha256[:12]}...; name the bundle that is meant, or leave sha256 out"
        )
    for key in ("controlnet", "cond.maps"):
        if sidecar.config.controlnet if key == "controlnet" else sidecar.config.cond.maps:
            raise ValueError(f"controlnet.base {folder}: it has {key} itself; name a bundle without")
    for key, (theirs, ours) in differences(known(sidecar.config), known(config)).items():
        raise ValueError(
            f"controlnet.base {folder}: {key} is {theirs} there, {ours} here; give this stage the same, or name another base"
        )
    controlnet = config.controlnet.model_copy(update={"sha256": sidecar.sha256})
    return config.model_copy(update={"controlnet": controlnet})


def known(config: StageConfig) -> dict[str, Any]:
    """What decides about the inputs and outputs of a stage's network, whose weights are meant for it."""
    values = config.model_dump(mode="json")
    return {key: values[key] for key in ALIKE if key in values} | {
        "net": without(values["net"], ("dropout",)),
        "noise": {"sigma_data": config.noise.sigma_data},
        "cond": {key: without(value, OF_TRAINING) for key, value in values["cond"].items() if key not in OF_TRAINING},
        "train": {"augment": {"probability": "above 0" if config.ports.vectors else 0}},
    }


def without(value: Any, keys: Collection[str]) -> Any:
    """A mapping without some of its keys; anything else as it is."""
    return {key: inner for key, inner in value.items() if key not in keys} if isinstance(value, dict) else value


def copied(config: StageConfig, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the encoder of `base`, as those of a control net: its first layer does not see the map yet."""
    wanted = shapes(config)
    weights = {name: tensor for name, tensor in base.items() if wanted.get(name) == tuple(tensor.shape)}
    old = base[CONV_IN]
    new = old.new_zeros(wanted[CONV_IN])
    new[:, : old.shape[1] - 1], new[:, -1:] = old[:, :-1], old[:, -1:]  # the last input is the constant channel
    return weights | {CONV_IN: new}
