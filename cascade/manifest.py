"""The manifest, cascade.json: the bundles of a cascade, in order, and their sampling settings. train.py writes it.

`read_manifest` also accepts a folder without cascade.json: it takes every FOLDER/STAGE/bundle, ordered by their contracts.
`check_chain` refuses bundles that do not fit together, with a one-line message.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from data.errors import first_error
from data.files import make_folder, replace_text
from data.resize import RESIZE_VERSION
from stages.ask import OWN
from stages.bundle import Contract, Sidecar, find_bundle, read_sidecar
from stages.config import SampleConfig
from stages.guiding.autoguidance import GUIDE
from stages.strict import Strict
from stages.texts import LATER, as_text

from .config import CascadeConfig, StageName
from .engine.host import host_name

MANIFEST = "cascade.json"
PATH_PART = r"[^/\\.[:cntrl:]][^/\\[:cntrl:]]*"  # a component of a path: not hidden, not ".."


class Tried(Strict):
    """One way of sampling that was tried for a stage.

    settings: what differed from those before. half_life: of the weights, in images, 0 for those of the bundle. calls: rows of the
    network a picture. scores: value and standard error by name.
    """

    settings: dict[str, Any]
    half_life: int = 0
    calls: int
    scores: dict[str, tuple[float, float]]


class Evidence(Strict):
    """Why a stage has the sampling settings that it has: what `cascade.judge sweep` tried, on which pictures, by which judge.

    judge: hash of measures and rule. data: fingerprint; halves: how the half is known. weights: sha256 of the bundle that was
    swept, with the settings `before`. chosen: number of the one chosen in `tried`. bounds: scores of other input or weights.
    precision: in which was painted.
    """

    judge: str
    rule: str
    verdict: str
    data: str
    split: str
    half: str
    halves: str
    num: int
    seed: int
    weights: str
    before: SampleConfig
    tried: tuple[Tried, ...]
    chosen: int
    bounds: dict[str, dict[str, tuple[float, float]]] = Field(default_factory=dict)
    precision: Annotated[str, LATER] = "fp32"


BundlePath = Annotated[str, Field(pattern=rf"^{PATH_PART}(/{PATH_PART})*$")]  # never leaves the folder


class StageEntry(Strict):
    """A stage in the manifest. bundle: its folder, relative to the manifest. sample: its sampling settings in this cascade.

    evidence: why it has them, if a sweep chose them. guide: the folder of the weaker network for autoguidance, if it has one.
    """

    bundle: BundlePath
    sample: SampleConfig
    evidence: Annotated[Evidence | None, LATER] = None
    guide: Annotated[BundlePath | None, LATER] = None

    @property
    def bundles(self) -> dict[str, str]:
        """The bundle folders of all its hosts, by the names that the stage uses for them."""
        return {OWN: self.bundle} | ({GUIDE: self.guide} if self.guide else {})


class Manifest(Strict):
    """The content of cascade.json: stages by name, in the order of the chain."""

    version: Literal[1] = 1
    name: str
    stages: dict[StageName, StageEntry] = Field(min_length=1)

    @property
    def bundles(self) -> dict[str, str]:
        """The bundle folders of all hosts, by the names of the hosts."""
        return {
            host_name(name, role): bundle
            for name, entry in self.stages.items()
            for role, bundle in entry.bundles.items()
        }


def check_folder(config: CascadeConfig, folder: Path) -> None:
    """Raise ValueError if the folder already holds a cascade of another name."""
    if (folder / MANIFEST).is_file() and (name := read_manifest(folder).name) != config.name:
        raise ValueError(f"{folder} holds cascade {name!r}, not {config.name!r}; choose another --out")


def write_manifest(config: CascadeConfig, folder: Path) -> None:
    """Write FOLDER/cascade.json for the runs FOLDER/STAGE; every stage's run writes the same content. Raises ValueError.

    Settings that a sweep chose stay, with their evidence, and so does a guide: training that goes on does not undo the choice.
    """
    check_folder(config, folder)
    make_folder(folder)
    entries = {name: StageEntry(bundle=f"{name}/bundle", sample=stage.sample) for name, stage in config.stages.items()}
    for name, old in (read_manifest(folder).stages if (folder / MANIFEST).is_file() else {}).items():
        if name in entries and old.guide:
            entries[name] = entries[name].model_copy(update={"guide": old.guide})
        if name in entries and old.evidence and old.sample.aug_sigma <= config.stages[name].max_aug_sigma:
            entries[name] = entries[name].model_copy(update={"sample": old.sample, "evidence": old.evidence})
    replace_text(folder / MANIFEST, as_text(Manifest(name=config.name, stages=entries)))


def write_swept(folder: Path, swept: Mapping[str, StageEntry]) -> None:
    """Replace entries of the manifest by those that a sweep chose; a manifest that was derived from bundles is written."""
    manifest = read_manifest(folder)
    stages = {name: swept.get(name, entry) for name, entry in manifest.stages.items()}
    replace_text(folder / MANIFEST, as_text(manifest.model_copy(update={"stages": stages})))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder, or derive it from the bundles there. Raises ValueError."""
    if not folder.is_dir():
        raise ValueError(
            f"cascade {folder}: no such folder; train one with: python train.py CASCADE STAGE --data SHARDS --out {folder}"
        )
    path = folder / MANIFEST
    if not path.is_file():
        return discover(folder)
    try:
        return Manifest.model_validate(json.loads(path.read_text()))
    except ValidationError as error:
        raise ValueError(f"{path}: {first_error(error)}; mend it, or remove it and let the bundles speak") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); remove it and let the bundles speak") from None


def discover(folder: Path) -> Manifest:
    """A manifest of FOLDER/*/bundle, in the order of a chain, with the sampling settings of their configs. Raises ValueError."""
    bundles = sorted({path.parent.with_name("bundle") for path in folder.glob("*/bundle*/stage.json")})
    sidecars = {bundle.parent.name: read_sidecar(bundle) for bundle in bundles if find_bundle(bundle).is_dir()}
    if not sidecars:
        raise ValueError(f"cascade {folder}: neither {MANIFEST} nor STAGE/bundle in it; name the --out of train.py")
    ordered = in_order({name: sidecar.contract for name, sidecar in sidecars.items()})
    entries = {name: StageEntry(bundle=f"{name}/bundle", sample=sidecars[name].config.sample) for name in ordered}
    try:
        return Manifest(name=folder.resolve().name, stages=entries)
    except ValidationError as error:
        raise ValueError(f"cascade {folder}: {first_error(error)}; rename that folder") from None


def in_order(contracts: Mapping[str, Contract]) -> list[str]:
    """Order stages so that each follows those whose output it takes; if that leaves a choice, the smaller input comes first."""

    def key(name: str) -> tuple[tuple[int, ...], str]:
        takes = contracts[name].takes
        return takes.size if takes else (), name

    ordered: list[str] = []
    rest = sorted(contracts, key=key)
    while rest:
        outputs = {name: contracts[name].gives for name in rest}
        waiting = [name for name in rest if any(gives == contracts[name].takes for gives in outputs.values())]
        ordered.append(next((name for name in rest if name not in waiting), rest[0]))
        rest.remove(ordered[-1])
    return ordered


def check_chain(contracts: Mapping[str, Contract]) -> None:
    """Raise ValueError if these stages, in this order, do not fit together: resize kernel, sizes, text encoder, classes."""
    previous = text = classes = None  # the last stage, the last with a text encoder, the last with classes
    for name, contract in contracts.items():
        if contract.resize != RESIZE_VERSION:
            raise ValueError(
                f"stage {name} was trained with resize {contract.resize}, this version has {RESIZE_VERSION}; "
                "train it again"
            )
        if previous:
            check_pair(*previous, name, contract)
        if text and contract.text_encoder and contract.text_encoder != text[1].text_encoder:
            raise ValueError(
                f"stage {name} was trained with text encoder {contract.text_encoder}, "
                f"stage {text[0]} with {text[1].text_encoder}; pack the shards of both with one encoder and train again"
            )
        if text and contract.text_tokens and contract.text_tokens != text[1].text_tokens:
            raise ValueError(
                f"stage {name} was trained with captions cut to {contract.text_tokens} tokens, "
                f"stage {text[0]} with {text[1].text_tokens}; pack the shards of both with one --text-tokens and train again"
            )
        if classes and contract.num_classes and contract.num_classes != classes[1].num_classes:
            raise ValueError(
                f"stage {name} knows {contract.num_classes} classes, but {classes[0]} {classes[1].num_classes}; "
                "train them on the same classes"
            )
        previous = (name, contract)
        text = previous if contract.text_encoder else text
        classes = previous if contract.num_classes else classes


def check_guide(name: str, own: Sidecar, guide: Sidecar, where: str) -> None:
    """Raise ValueError if a network cannot guide stage `name`: it must answer the stage's own questions, about pictures of the same
    form. where: its folder, for the message. It may know fewer conditions; it is not asked about what it does not know."""
    for key in ("space", "low_res", "resolution", "channels", "value_range", "resize"):
        mine, other = getattr(own.contract, key), getattr(guide.contract, key)
        if mine != other:
            raise ValueError(
                f"stage {name}: its guide {where} has {key} {other}, the stage {mine}; choose another guide"
            )
    for key in ("text_encoder", "text_tokens", "num_classes"):
        mine, other = getattr(own.contract, key), getattr(guide.contract, key)
        if other and mine != other:
            raise ValueError(
                f"stage {name}: its guide {where} has {key} {other}, the stage {mine}; choose another guide"
            )
    text, other_text = own.config.cond.text, guide.config.cond.text
    if other_text and text and other_text.tokens != text.tokens:
        raise ValueError(
            f"stage {name}: its guide {where} reads {other_text.tokens} tokens, the stage {text.tokens}; choose another guide"
        )
    if own.provenance.classes and guide.provenance.classes not in (None, own.provenance.classes):
        raise ValueError(f"stage {name}: its guide {where} was trained on other classes; choose another guide")


def check_pair(above: str, given: Contract, name: str, contract: Contract) -> None:
    """Raise ValueError if stage `name` does not take what the stage before it, `above`, gives."""
    takes, gives = contract.takes, given.gives
    if takes is None:
        raise ValueError(
            f"stage {name} is a base stage but comes after {above}; put the base stage first in {MANIFEST}"
        )
    if takes.space != gives.space:
        raise ValueError(
            f"stage {name} takes {takes.space}, but {above} gives {gives.space}; put them in cascades of their own"
        )
    if takes.size != gives.size:
        raise ValueError(
            f"stage {name} expects low_res {contract.low_res} px, but {above} gives {given.resolution} px; "
            f"put a {given.resolution} -> {contract.low_res} stage between them"
        )
    if takes != gives:
        raise ValueError(
            f"stage {name} takes {takes.channels} channels in {takes.value_range}, "
            f"but {above} gives {gives.channels} in {gives.value_range}; train them on the same kind of picture"
        )
