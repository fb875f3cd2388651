"""A bundle: the folder that training gives and sampling needs, with `stage.json` and `ema.safetensors`, never a pickle.

`stage.json` holds the complete config, the contract with the neighbouring stages and the provenance (images seen, data
fingerprint, versions), so that a bundle can be loaded without further knowledge. Loading executes nothing from the folder.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.errors import first_error
from data.files import file_sha256, sync, umask
from data.resize import RESIZE_VERSION

from .build import build_stage
from .config import StageConfig
from .nets.controlnet_config import ControlNetConfig
from .stage import Stage
from .strict import Strict
from .texts import LATER, as_text

SIDECAR, WEIGHTS = "stage.json", "ema.safetensors"
BASE = "base"  # folder in a control net's bundle: the bundle that it stands beside


class BundleError(ValueError):
    """The folder is not a complete, intact bundle; the message names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Handed:
    """What one stage hands to the next: the stored space, the size (h, w) of the pictures in px, channels, value range."""

    space: str
    size: tuple[int, int]
    channels: int
    value_range: tuple[float, float]


class Contract(Strict):
    """What a bundle states for its neighbours. `low_res` is null for a base stage; sizes in px, ranges as in the tensors."""

    space: Annotated[str, LATER] = "pixels"
    low_res: int | None
    resolution: int
    channels: int
    value_range: tuple[float, float] = (-1.0, 1.0)
    resize: str = RESIZE_VERSION
    text_encoder: str | None
    text_tokens: int | None = None  # captions are cut to this length before they are encoded
    num_classes: int
    max_aug_sigma: float
    prediction: Literal["x0"] = "x0"

    @property
    def gives(self) -> Handed:
        """What the stage hands to the stage above."""
        return self._handed(self.resolution)

    @property
    def takes(self) -> Handed | None:
        """What the stage needs from the stage below, or None if it begins a chain."""
        return None if self.low_res is None else self._handed(self.low_res)

    def _handed(self, side: int) -> Handed:
        return Handed(space=self.space, size=(side, side), channels=self.channels, value_range=self.value_range)


class Ancestor(Strict):
    """A bundle from which a run was started: sha256 of its weights, images seen, its data's fingerprint, its licence if stated."""

    sha256: str
    nimg: int
    data: str
    licence: str | None = None


class Provenance(Strict):
    """Where the weights come from. nimg: images seen; ema: half-life in images; data: fingerprint of the shards.

    ancestors: the bundles that they were trained on from, the nearest first.
    """

    nimg: int
    ema: int
    data: str
    classes: tuple[str, ...] | None = None
    versions: dict[str, str]
    scores: dict[str, float] = Field(default_factory=dict)
    ancestors: Annotated[tuple[Ancestor, ...], LATER] = ()


class Sidecar(Strict):
    """The content of stage.json."""

    version: Literal[1] = 1
    config: StageConfig
    contract: Contract
    provenance: Provenance
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def make_contract(config: StageConfig, text_encoder: str | None) -> Contract:
    """Derive the contract from a config; text_encoder is the exact identity in the data's index."""
    return Contract(
        space=config.space.handed,
        low_res=config.takes[0] if config.takes else None,
        resolution=config.resolution,
        channels=config.channels,
        text_encoder=text_encoder,
        text_tokens=config.cond.text.packed_tokens if config.cond.text else None,
        num_classes=config.cond.num_classes,
        max_aug_sigma=config.max_aug_sigma,
    )


def save_bundle(
    folder: Path, weights: dict[str, Tensor], *, config: StageConfig, text_encoder: str | None, provenance: Provenance
) -> None:
    """Write a bundle beside `folder`, then swap: readers see the old or the new one, even after a kill at any moment. A control
    net's holds the weights of the copy alone, and in `base` the files of the frozen bundle. Raises BundleError if that has become
    another one."""
    staging, backup = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        if config.controlnet:
            config = config.model_copy(update={"controlnet": copy_base(config.controlnet, staging / BASE)})
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, staging / WEIGHTS)
        (staging / WEIGHTS).chmod(0o666 & ~umask())  # safetensors makes the file private; a run directory may be shared
        sidecar = Sidecar(
            config=config,
            contract=make_contract(config, text_encoder),
            provenance=provenance,
            sha256=file_sha256(staging / WEIGHTS),
        )
        (staging / SIDECAR).write_text(as_text(sidecar))
        for path in (staging / WEIGHTS, staging / SIDECAR, staging):
            sync(path)
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)  # for instance after a full disk
        raise
    if folder.exists():
        shutil.rmtree(backup, ignore_errors=True)
        folder.rename(backup)
    staging.rename(folder)
    shutil.rmtree(backup, ignore_errors=True)


def copy_base(controlnet: ControlNetConfig, folder: Path) -> ControlNetConfig:
    """Copy the files of the frozen bundle to `folder`, and return the config that names them there."""
    base = find_bundle(Path(controlnet.base))
    check_base(base, controlnet)
    folder.mkdir()
    for name in (SIDECAR, WEIGHTS):
        shutil.copyfile(base / name, folder / name)
        sync(folder / name)
    sync(folder)
    return controlnet.model_copy(update={"base": folder.name})


def check_base(base: Path, controlnet: ControlNetConfig) -> None:
    """Raise BundleError unless the bundle at `base` is whole and the one that a control net was trained beside."""
    sidecar, path = read_sidecar(base), base / WEIGHTS
    if not path.is_file():
        raise BundleError(f"{path}: missing; copy the bundle again")
    _check_hash(file_sha256(path), sidecar, path)
    if (sha256 := sidecar.sha256) != controlnet.sha256:
        raise BundleError(
            f"{base}: its weights have sha256 {sha256[:12]}..., the control net stands beside {controlnet.sha256[:12]}...; "
            "copy there the bundle that is meant"
        )


def find_bundle(folder: Path) -> Path:
    """Return `folder`, or its `.old` version if a kill fell between the two renames of `save_bundle`."""
    backup = folder.with_name(folder.name + ".old")
    return backup if not folder.exists() and backup.exists() else folder


def read_sidecar(folder: Path) -> Sidecar:
    """Read and check stage.json. Raises BundleError."""
    path = find_bundle(folder) / SIDECAR
    try:
        sidecar = TypeAdapter(Sidecar).validate_python(json.loads(path.read_text()), strict=False)
    except FileNotFoundError:
        raise BundleError(
            f"bundle {folder}: no {SIDECAR} there; train the stage, or point at the folder that holds it"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: not readable as JSON ({error}); copy the bundle again") from None
    except ValidationError as error:
        raise BundleError(f"{path}: {first_error(error)}; the bundle is damaged or from another version") from None
    if sidecar.config.controlnet:
        controlnet = sidecar.config.controlnet.model_copy(update={"base": str(path.parent / BASE)})
        sidecar = sidecar.model_copy(update={"config": sidecar.config.model_copy(update={"controlnet": controlnet})})
    fresh = make_contract(sidecar.config, sidecar.contract.text_encoder)
    if sidecar.contract.text_tokens is None:  # from an older version, or a stage without text
        contract = sidecar.contract.model_copy(update={"text_tokens": fresh.text_tokens})
        sidecar = sidecar.model_copy(update={"contract": contract})
    for key, value in sidecar.contract.model_dump().items():
        if key in ("space", "resolution", "channels", "text_tokens", "max_aug_sigma") and value != getattr(fresh, key):
            raise BundleError(
                f"{path}: the contract says {key} {value!r}, the config makes it {getattr(fresh, key)!r}; copy the bundle again"
            )
    return sidecar


def load_bundle(folder: Path | str, device: torch.device | str = "cpu", precision: str = "fp32") -> Stage:
    """Load a bundle's stage, ready to denoise: evaluation mode, no gradients, weights folded. Raises BundleError."""
    sidecar, weights = _read(Path(folder))
    with torch.device("meta"):
        stage = build_stage(sidecar.config)
    stage.load_state_dict(weights, assign=True)
    stage.network.fold()
    stage.set_precision(precision)
    if sidecar.config.controlnet and torch.device(device).type != "meta":
        stage.net.base(device)  # missing or damaged weights are found now
    return stage.to(device).eval().requires_grad_(False)


def read_weights(folder: Path | str) -> dict[str, Tensor]:
    """The weights of a bundle in float32, not folded, to train them on. Raises BundleError."""
    return _read(Path(folder))[1]


def _read(folder: Path) -> tuple[Sidecar, dict[str, Tensor]]:
    """The sidecar and the weights of a bundle, checked against each other."""
    folder = find_bundle(folder)
    sidecar = read_sidecar(folder)
    if sidecar.config.controlnet:
        check_base(folder / BASE, sidecar.config.controlnet)
    path = folder / WEIGHTS
    if not path.is_file():
        raise BundleError(f"{path}: missing; copy the bundle again")
    with ThreadPoolExecutor(1) as pool:
        sha256 = pool.submit(file_sha256, path)  # as slow as all the rest, so on another core
        try:
            weights = _checked(sidecar.config, path)
        except BundleError:
            _check_hash(sha256.result(), sidecar, path)  # a wrong hash explains more than its consequences
            raise
        _check_hash(sha256.result(), sidecar, path)
    return sidecar, weights


def _check_hash(sha256: str, sidecar: Sidecar, path: Path) -> None:
    if sha256 != sidecar.sha256:
        raise BundleError(
            f"{path}: its sha256 is not the one in {SIDECAR}: changed or cut short; copy the bundle again"
        )


def _checked(config: StageConfig, path: Path) -> dict[str, Tensor]:
    """The weights at `path` in float32, if they are those of a stage of this config."""
    weights = _read_weights(path)
    with torch.device("meta"):
        stage = build_stage(config)
    shapes = {name: tensor.shape for name, tensor in stage.state_dict().items()}
    for problem, names in (("misses", shapes.keys() - weights.keys()), ("has extra", weights.keys() - shapes.keys())):
        if names:
            raise BundleError(f"{path}: {problem} tensor {min(names)} ({len(names)} in all); copy the bundle again")
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise BundleError(f"{path}: tensor {name} is {tuple(weights[name].shape)}, {tuple(shape)} is needed")
        if not weights[name].is_floating_point():
            kind = str(weights[name].dtype).removeprefix("torch.")
            raise BundleError(f"{path}: tensor {name} is {kind}, a floating-point type is needed")
    return {name: tensor.float() for name, tensor in weights.items()}


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"{path}: not a safetensors file ({error}); copy the bundle again") from None
