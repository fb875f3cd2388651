"""From a folder of pictures to a cascade: look, choose, pack, write the YAML, train stage by stage, paint and judge.

Whatever is done already is left as it is, so the same command goes on where it stopped.
"""

import os
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from cascade.judge.report import Report
from data.cpus import Use, allowed, fitting
from data.disk import free_gb
from data.files import replace_text
from data.index import Index, load
from data.index.items import Choices as ReadAs
from data.index.items import Source
from data.line import say
from data.pack.packer import PackSettings, pack
from stages.config import StageConfig

from ..card.hand import HAND
from ..card.writing import write_card
from ..config import CascadeConfig, load_config
from ..launch import run_all
from ..manifest import write_manifest
from ..pipeline import Cascade
from ..train.costs import measure_rate
from ..train.minutes import TooShortError
from ..train.process import TrainingProcess
from .choices import MIDDLE, Asked, Choice, Choices, choose
from .ending import judge, paint_samples, repeats, take_best, told
from .recipe import Packed, recipe, stage_names
from .record import read_record, write_record
from .survey import listed, listing_sha256, survey

YAML = "cascade.yaml"
PROBED_S = 1.5  # of updates, for each network that is tried
ROOM_GB = 0.5  # for checkpoints and bundles


def make(pictures: Path, out: Path, asked: Asked, read_as: ReadAs, command: str) -> None:
    """Make a cascade in `out` from a folder of pictures. command: what the user types to go on.

    Raises ValueError for what cannot be read, trained, or gone on with; KeyboardInterrupt after Ctrl-C, when all is saved.
    """
    check_places(pictures, out)
    listing = listing_sha256(listed(pictures, read_as))
    try:
        shards = read_record(out, listing, asked, pictures) or begun(pictures, out, asked, read_as, listing)
        config = load_config(str(out / YAML), list(asked.overrides))
        write_manifest(config, out)
        for name in config.stages:
            if not trained(config, name, out, out / shards[name], asked.overrides):
                say(f"stopped; it goes on with: {command}")
                return
            take_best(out / name, name, say)
    except KeyboardInterrupt:
        say(f"stopped; it goes on with: {command}")
        raise
    end(config, out, out / shards[[*config.stages][-1]], out / shards[next(iter(config.stages))])


def check_places(pictures: Path, out: Path) -> None:
    """Raise ValueError if the folder of the cascade lies among the pictures, or the other way round."""
    if not pictures.is_dir():
        raise ValueError(f"{pictures}: not a folder; name one of pictures")
    source, target = pictures.resolve(), out.resolve()
    if source == target or source in target.parents:
        raise ValueError(
            f"--out {out} lies in {pictures}: a second run would train on what the first has painted; choose another place"
        )
    if target in source.parents:
        raise ValueError(f"--out {out} holds {pictures} itself; choose another place")


def begun(pictures: Path, out: Path, asked: Asked, read_as: ReadAs, listing: str) -> dict[str, str]:
    """Look, choose, pack, measure, and write the YAML; the record comes last, so that what was broken off is begun again."""
    since = Use.now()
    found = survey(pictures, read_as)
    say(f"{pictures}: {found.line()}")
    chosen = choose(found, asked, token_lengths)
    sides = chosen.sizes.value
    say(f"sizes {' -> '.join(map(str, sides))} px: {chosen.sizes.reason}")
    say(f"condition {chosen.condition.value}: {chosen.condition.reason}")
    needed = ROOM_GB + 2e-9 * len(chosen.source.items) * sum(
        chosen.channels.value * side**2 for side in {MIDDLE, sides[-1]}
    )
    if free_gb(out) < needed:
        raise ValueError(
            f"{out}: {free_gb(out):.1f} GB are free, about {needed:.1f} are needed; make room, or choose another --out"
        )
    try:
        shards = written(pictures, out, chosen, asked, read_as, since)
    except TooShortError as error:
        if len(sides) < 3 or asked.size:
            raise
        say(f"the stage of {sides[-1]} px is left out: {error}")
        chosen = replace(chosen, sizes=Choice(sides[:2], f"a stage of {sides[-1]} px wants more minutes"))
        shards = written(pictures, out, chosen, asked, read_as, since)
        shutil.rmtree(out / _shards(sides[-1]))
    say(f"{out / YAML}: what was chosen, and why")
    write_record(out, listing, asked, shards)
    return shards


def written(pictures: Path, out: Path, chosen: Choices, asked: Asked, read_as: ReadAs, since: Use) -> dict[str, str]:
    """Pack the pictures and write the YAML; the shards of each stage. Raises TooShortError if the minutes do not suffice."""
    sides = chosen.sizes.value
    packed = {side: _packed(pictures, out, side, chosen, read_as) for side in dict.fromkeys((MIDDLE, sides[-1]))}
    for side, index in packed.items():
        counts = ", ".join(f"{num:,} {split}" for split, num in index.num_images.items())
        say(f"{out / _shards(side)}: {counts} of {side} px")
    places = {name: max(MIDDLE, side) for name, side in zip(stage_names(chosen), sides, strict=True)}
    of_stages = Packed(
        places=tuple(out / _shards(side) for side in places.values()),
        indexes=tuple(packed[side] for side in places.values()),
    )
    text = recipe(out.resolve().name, chosen, asked, of_stages, partial(speed, since=since), say)
    replace_text(out / YAML, text)
    load_config(str(out / YAML), list(asked.overrides))
    return {name: _shards(side) for name, side in places.items()}


def token_lengths(captions: list[str]) -> list[int]:
    """The tokens of captions, by the encoder that ships."""
    from data.text import TextEncoder

    return TextEncoder.load("minilm", max_tokens=64).lengths(captions)


def speed(config: StageConfig, *, since: Use) -> float:
    """Images a second of a stage's training in one process, with the threads that it will have. since: as of `settle_threads`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(fitting(allowed(), since.others()))
    try:
        return measure_rate(config, config.train.batch, device, least_s=PROBED_S)[0]
    finally:
        torch.set_num_threads(before)


def trained(config: CascadeConfig, name: str, out: Path, data: Path, overrides: tuple[str, ...]) -> bool:
    """Train a stage to its end, showing where its previews lie; False if it was told to stop."""
    say(f"{name}: training; previews come into {out / name / 'samples'}")
    arguments = (str(out / YAML), name, "--data", str(data), "--out", str(out), *overrides)
    training = TrainingProcess(name, arguments, out / f"{name}.log")
    return run_all(config, [training], out)


def end(config: CascadeConfig, out: Path, data: Path, base_data: Path) -> None:
    """Paint, judge, and say what can be done with the cascade."""
    model = Cascade.load(out, device="cuda" if torch.cuda.is_available() else "cpu")
    shown = paint_samples(out, model, held_captions(data))
    say(f"{shown.path}: samples")
    report = judge(out, model, data, lambda _: None)
    side = config.stages[model.names[-1]].resolution
    share, num = repeats(shown.pictures, data, side)
    for line in told(report, share, num):
        say(line)
    if report:
        say(
            f"{out / 'report.html'}: scores on {len(report.keys):,} held-out pictures, and the nearest training pictures"
        )
    say(_card(out, dict.fromkeys((str(base_data), str(data))), report))
    base, images = model.names[0], 2 * next(iter(config.stages.values())).train.images
    yaml, place = shlex.quote(str(out / YAML)), shlex.quote(str(out))
    say(f"paint: python sample.py --cascade {place} --num 16 --out pictures.png")
    say(f"serve: python -m cascade.serve {place}")
    say(f"go on: python train.py {yaml} {base} --data {shlex.quote(str(base_data))} --out {place} --images {images}")


def _card(out: Path, data: Iterable[str], report: Report | None) -> str:
    """Write the model card; a line about it, or why there is none: all else is done by then."""
    try:
        card = write_card(out, data=tuple(data), reports=[("report.html", report.as_json())] if report else [])
    except ValueError as error:
        return f"no model card was written: {error}"
    return f"{card}: its model card; what only you know goes into {out / HAND}"


def held_captions(data: Path, num: int = 8) -> list[str]:
    """The first distinct captions of held-out pictures, or of training pictures where none is held out."""
    from cascade.judge.about import read_about

    split = "val" if load(data).num_images.get("val") else "train"
    captions = [each.caption for each in read_about(str(data), split).values() if each.caption]
    return list(dict.fromkeys(captions))[:num]


def _packed(pictures: Path, out: Path, side: int, chosen: Choices, read_as: ReadAs) -> Index:
    settings = PackSettings(
        size=side,
        upscale=chosen.upscale,
        alpha=chosen.channels.value == 4,
        text_encoder="minilm" if chosen.has_text else None,
        text_tokens=chosen.tokens.value if chosen.has_text else PackSettings().text_tokens,
        val=chosen.val.value,
        max_bad=1.0,
        source=read_as.source,
        text_column=read_as.text_column,
        label_column=read_as.label_column,
        splits=read_as.splits,
    )

    def kept(_: Source) -> Source:
        return chosen.source

    return pack(pictures, out / _shards(side), settings, chosen=kept)


def _shards(side: int) -> str:
    return f"shards_{side}"
