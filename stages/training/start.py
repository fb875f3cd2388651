"""What a run starts from: random weights, or those of a bundle (`train.init`), whose origin and licences the new bundle inherits.

The bundle is read once, before the first update. A resumed run has its weights in its checkpoints, and what it inherited in
`init.json`: the bundle itself may be gone by then.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from data.errors import first_error
from data.index import Index

from ..bundle import Ancestor, Sidecar, find_bundle, read_sidecar, read_weights
from ..config import StageConfig
from ..nets.controlnet_config import ControlNetConfig
from ..parametrisations.spectral_config import SpectralConfig
from .checkpoints import read_object, write_json
from .checks import text_encoder_id
from .controlled import copied
from .rundir import RunDir, differences, shapes

INHERITED = "init.json"
CARD = "README.md"
LIKE_NETS = ("dropout",)  # of `net`: may differ, for no weight depends on it


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run inherits. ancestors: the bundles its weights come from, the nearest first. weights: those that replace random
    ones; None on a resume.

    notes: what differs between the bundle and the run and is allowed, a line each.
    """

    ancestors: tuple[Ancestor, ...] = ()
    weights: dict[str, Tensor] | None = None
    notes: tuple[str, ...] = ()


def start_of(config: StageConfig, index: Index, run: RunDir) -> Start:
    """What the run in this folder starts from, or has started from. Raises ValueError if a bundle does not fit, by its name."""
    if not config.train.init and not config.controlnet:
        return Start()
    if run.folders():
        return Start(ancestors=read_inherited(run))
    if config.controlnet and not config.train.init:
        return start_of_copy(config, index, config.controlnet)
    folder = Path(config.train.init)
    sidecar = read_sidecar(folder)
    check_fits(config, index, sidecar)
    own = ancestor_of(folder, sidecar)
    return Start(
        ancestors=(own, *sidecar.provenance.ancestors),
        weights=read_weights(folder),
        notes=tuple(notes(config, index, sidecar, own)),
    )


def start_of_copy(config: StageConfig, index: Index, controlnet: ControlNetConfig) -> Start:
    """A control net starts as a copy of its base's encoder, and inherits from it. Raises ValueError for another text encoder."""
    folder = Path(controlnet.base)
    sidecar = read_sidecar(folder)
    encoder = text_encoder_id(config, index)
    if encoder and sidecar.contract.text_encoder != encoder:
        raise ValueError(
            f"controlnet.base {folder}: it was trained with text encoder {sidecar.contract.text_encoder}, the data have {encoder}; "
            "pack them with the same --text-encoder, or name another base"
        )
    own = ancestor_of(folder, sidecar)
    return Start(
        ancestors=(own, *sidecar.provenance.ancestors),
        weights=copied(config, read_weights(folder)),
        notes=(f"stands beside {folder}, which stays as it is ({terms(own)})",),
    )


def ancestor_of(folder: Path, sidecar: Sidecar) -> Ancestor:
    """The bundle in a folder as an ancestor."""
    provenance = sidecar.provenance
    return Ancestor(sha256=sidecar.sha256, nimg=provenance.nimg, data=provenance.data, licence=licence_of(folder))


def terms(own: Ancestor) -> str:
    """Images seen and licence of an ancestor, for a note."""
    return f"{own.nimg:,} images, licence: {own.licence or 'not stated there'}"


def check_fits(config: StageConfig, index: Index, sidecar: Sidecar) -> None:
    """Raise ValueError, naming what differs, if a bundle's weights mean another thing than those of a stage of this config."""
    there, text, here_text = sidecar.config, sidecar.config.cond.text, config.cond.text
    pairs: dict[str, tuple[Any, Any]] = {
        "kind": (there.kind, config.kind),
        "space": (there.space.model_dump(), config.space.model_dump()),
        "parametrisation.kind": (there.parametrisation.kind, config.parametrisation.kind),
        "channels": (there.channels, config.channels),
        "factor": (there.factor, config.factor),
        "cond.num_classes": (there.cond.num_classes, config.cond.num_classes),
        "cond.text": (text and (text.encoder, text.dim), here_text and (here_text.encoder, here_text.dim)),
        "net": (_network(there), _network(config)),
        "controlnet.sha256": (
            there.controlnet and there.controlnet.sha256,
            config.controlnet and config.controlnet.sha256,
        ),
    }
    for key, (theirs, ours) in pairs.items():
        for name, (a, b) in differences(theirs, ours, key).items():
            raise ValueError(
                f"train.init {config.train.init}: {name} is {_plain(a)} there, {_plain(b)} here; give this stage the same, "
                "or start from another bundle"
            )
    encoder = text_encoder_id(config, index)
    if encoder and sidecar.contract.text_encoder != encoder:
        raise ValueError(
            f"train.init {config.train.init}: it was trained with text encoder {sidecar.contract.text_encoder}, the data have "
            f"{encoder}; pack them with the same --text-encoder, or start from another bundle"
        )
    theirs, ours = shapes(there), shapes(config)
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"train.init {config.train.init}: weight {name} has shape {theirs.get(name)} there, {ours.get(name)} here; "
                "start from another bundle"
            )


def notes(config: StageConfig, index: Index, sidecar: Sidecar, own: Ancestor) -> Iterator[str]:
    """What a user should know of the bundle that a run starts from, one line each."""
    there, folder = sidecar.config, config.train.init
    yield (f"starts from {folder} ({terms(own)}); its terms hold for what is trained from it")
    here = {"noise.sigma_data": config.noise.sigma_data, "resolution": config.resolution}
    other = {"noise.sigma_data": there.noise.sigma_data, "resolution": there.resolution}
    if hasattr(config, "low_res_sigma") and hasattr(there, "low_res_sigma"):
        here["low_res_sigma"], other["low_res_sigma"] = config.low_res_sigma, there.low_res_sigma
    for name, value in here.items():
        if value != other[name]:
            yield f"{name} was {other[name]} in {folder}, is {value}: what it had learned is measured otherwise now"
    ours, theirs = config.parametrisation, there.parametrisation
    if isinstance(ours, SpectralConfig) and isinstance(theirs, SpectralConfig) and ours.std != theirs.std:
        yield f"parametrisation has the spectrum of other data in {folder}: what it had learned is measured otherwise now"
    names = sidecar.provenance.classes
    if names and index.classes and tuple(index.classes) != names:
        k = next(k for k, pair in enumerate(zip(names, index.classes, strict=False)) if pair[0] != pair[1])
        yield f"class {k} was {names[k]!r} in {folder}, is {index.classes[k]!r}: it begins as the other one"


def licence_of(bundle: Path) -> str | None:
    """The licence stated in the head of the model card beside a bundle or beside its cascade; None if there is none."""
    folder = find_bundle(bundle).resolve()
    for place in (folder, folder.parent, folder.parent.parent):
        if not (place / CARD).is_file():
            continue
        head = (place / CARD).read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0].splitlines()
        fields = dict(line.split(": ", 1) for line in head[1:] if ": " in line) if head[:1] == ["---"] else {}
        if licence := fields.get("license_name") or fields.get("license"):
            return licence.strip()
    return None


def write_inherited(run: RunDir, ancestors: tuple[Ancestor, ...]) -> None:
    """Keep what a run inherited, for the bundles that it writes after a resume."""
    if ancestors:
        write_json(run.path / INHERITED, {"ancestors": [each.model_dump(mode="json") for each in ancestors]})


def read_inherited(run: RunDir) -> tuple[Ancestor, ...]:
    """What the run in this folder inherited. Raises ValueError if the file is damaged or gone."""
    path = run.path / INHERITED
    fix = "restore it, for it says whose weights this run began from"
    try:
        content = read_object(path, fix)
        return TypeAdapter(tuple[Ancestor, ...]).validate_python(content.get("ancestors"), strict=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; {fix}") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {first_error(error)}; {fix}") from None


def _network(config: StageConfig) -> dict[str, Any]:
    return {key: value for key, value in config.net.model_dump(mode="json").items() if key not in LIKE_NETS}


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)
