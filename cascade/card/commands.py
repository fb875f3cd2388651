"""Commands that sample a cascade and that trained it, as a card shows them."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.training.rundir import FREE_TO_CHANGE, differences

from ..config import PRESETS, CascadeConfig, load_config
from .chain import Chain, StageFacts
from .hand import Hand
from .kept import Kept

ROOT = Path(__file__).parents[2]
BUNDLE = "BUNDLE"
THIS = "CASCADE"  # where the card does not know its own place
LENGTH = "train.images"  # free to change, and what training gave
YAML = "cascade.yaml"  # of cascade.demo PICTURES


def place_of(folder: Path) -> str:
    """The folder as commands name it: from the root of this project, or a word, since a card travels."""
    path = folder.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else THIS


def quoted(words: Iterable[str]) -> str:
    """A line for a shell: in double quotes where that is enough, as people write it."""
    plain = (f'"{word}"' if re.fullmatch(r"[\w ,.:()-]* [\w ,.:()-]*", word) else shlex.quote(word) for word in words)
    return " ".join(plain)


def sampling(chain: Chain, kept: Kept, hand: Hand) -> str:
    """`python sample.py ...` with what this cascade takes."""
    own, place = hand.head, place_of(chain.folder)
    words = ["python", "sample.py"]
    if chain.first.contract.low_res is not None:
        return quoted([*words, "--image", "PICTURE.png", "--cascade", place])
    told = [caption for data in kept.data.values() for caption in data.captions]
    if chain.has_text:
        words += own.prompts or dict.fromkeys(told[:2]) or ["PROMPT"]
    if chain.classes:
        labels = own.labels or (() if chain.has_text else chain.classes[:2])
        words += [word for label in labels for word in ("--label", label)]
    num = [] if chain.classes and chain.has_text and own.labels else ["--num", "4"]
    return quoted([*words, "--cascade", place, *num, "--out", f"out/{chain.manifest.name}.png"])


def training(chain: Chain, kept: Kept) -> Iterator[str]:
    """The lines that pack the data and train the stages; none where no YAML is known that has these configs."""
    config = _config(chain)
    if config is None or any(stage.name not in config.stages for stage in chain.stages):
        return
    own = (chain.folder / YAML).is_file()
    packed = {data.name: data.pack for data in kept.data.values()}
    for name in dict.fromkeys(_data(stage, kept) for stage in chain.stages):
        if packed.get(name):
            yield f"python -m data.pack PICTURES shards/{name} {shlex.join(packed[name])}"
    for stage in chain.stages:
        data, name = _data(stage, kept), f"{THIS}/{YAML}" if own else chain.manifest.name
        yield " ".join(
            (
                f"python train.py {name} {stage.name} --data {f'shards/{data}' if data else 'SHARDS'}",
                f"--out runs/{chain.manifest.name}",
                *changes(config, stage),
            )
        )


def _config(chain: Chain) -> CascadeConfig | None:
    for path in (chain.folder / YAML, PRESETS / f"{chain.manifest.name}.yaml"):
        if path.is_file():
            return load_config(str(path))
    return None


def _data(stage: StageFacts, kept: Kept) -> str:
    data = kept.data.get(stage.sidecar.provenance.data)
    return data.name if data else ""


def changes(config: CascadeConfig, stage: StageFacts) -> Iterator[str]:
    """The dotted overrides that make of a stage's config in the YAML the one that the bundle has, in what changes its weights."""
    old, new = config.stages[stage.name].model_dump(mode="json"), stage.sidecar.config.model_dump(mode="json")
    for part, key in (("train", "init"), ("controlnet", "base")):  # bundles, by their places
        if new[part] and new[part].get(key):
            new[part][key] = BUNDLE
    for key, (_, value) in differences(old, new).items():
        if key == LENGTH or not (key.startswith("sample.") or key in FREE_TO_CHANGE):
            text = value if isinstance(value, str) and value else json.dumps(value)
            yield shlex.quote(f"stages.{stage.name}.{key}={text}")
