"""Command-line helpers of sample.py: parsing of option values, progress bars, output lines."""

import codecs
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from typer import Context

from data.errors import nearest
from data.line import say
from stages.guidance import GUIDE
from stages.unfit import BY_LOW_RES, PARTS

from .events import Event, Preview, StageFinished, StageStarted
from .link import Link
from .pipeline import Cascade
from .request import MAX_SIDE

FLAGS = {
    "num_steps": "--steps", "guidance_scale": "--guidance", "guidance_text": "--guidance-text",
    "guidance_label": "--guidance-label", "aug_sigma": "--aug-sigma", "sampler": "--sampler",
    "consistency": "--consistency", "colour": "--colour", "strength": "--strength", "resample": "--resample",
}  # fmt: skip
HANDED_ON = ("sigma_end", "handover")  # settings of what a stage gives to the next: the last one of the chain has none
MAX_PICK = 1_000_000  # images named with --pick: their numbers are a list in memory


def check_options(ctx: Context, option: str, allowed: Collection[str]) -> None:
    """Raise ValueError if the command line has options other than `allowed` beside `option`."""
    conflicts = [
        param.opts[0] if param.param_type_name == "option" else f"the {param.name}"
        for param in ctx.command.params
        if param.name not in allowed and given(ctx, param.name or "")
    ]
    if conflicts:
        names = ", ".join(param.opts[0] for param in ctx.command.params if param.name in allowed)
        raise ValueError(
            f"{option}: the picture says all other settings; leave {', '.join(conflicts)} out, only these go together: {names}"
        )


def given(ctx: Context, name: str) -> bool:
    """Whether a parameter was set on the command line, rather than left at its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def settings_of(model: Cascade, **options: list[str] | None) -> dict[str, dict[str, Any]]:
    """Parse {"num_steps": ["8", "sr_64=4"]} to {"base_16": {"num_steps": "8"}, "sr_64": {"num_steps": "4"}}.

    A value without a stage's name goes to every stage that it applies to. Raises ValueError for an unknown stage, for the guidance
    of a condition that no stage has, and for corrections by a smaller picture where no stage has one.
    """
    names = [link.name for link in model.links]
    settings: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, values in options.items():
        for value in sorted(values or [], key=lambda v: "=" in v):  # a stage's own value overrides the general one
            stage, _, text = value.rpartition("=")
            if stage and stage not in names:
                hint = f"there are {', '.join(names)}{nearest(stage, names)}"
                raise ValueError(f"{FLAGS[key]} {value}: no stage {stage!r}, {hint}")
            if not stage and key in PARTS and not any(concerns(key, link) for link in model.links):
                raise ValueError(f"{FLAGS[key]} {value}: no stage is guided by {PARTS[key][1]}; leave it out")
            if not stage and key in BY_LOW_RES and not any(concerns(key, link) for link in model.links):
                raise ValueError(f"{FLAGS[key]} {value}: no stage enlarges a picture to agree with; leave it out")
            for link in model.links:
                if stage == link.name or (not stage and concerns(key, link)):
                    settings[link.name][key] = text
    return settings


def concerns(key: str, link: Link) -> bool:
    """Whether a setting has an effect on a stage: aug_sigma and corrections in super-resolution, guidance_scale where the stage can
    be guided (elsewhere guidance would double the cost and change nothing), its parts where the stage has them, control_scale where
    it has a control net."""
    applies = {"aug_sigma": link.contract.low_res, "guidance_scale": link.is_guidable}
    applies |= dict.fromkeys(BY_LOW_RES, link.contract.low_res)
    applies |= {"autoguidance_scale": GUIDE in link.hosts, "anneal_scale": "text" in link.guided_parts}
    applies |= dict.fromkeys(("guidance_every", "guidance_rescale"), link.is_guidable or GUIDE in link.hosts)
    applies |= {"original_size": link.sidecar.config.cond.original_size is not None}
    applies |= {"control_scale": link.sidecar.config.controlnet is not None}
    applies |= {key: part in link.guided_parts for key, (part, _) in PARTS.items()}
    return bool(applies.get(key, True))


def guided(model: Cascade, values: list[str] | None) -> tuple[list[str], dict[str, tuple[float, ...]]]:
    """Parse the values of --guidance: those of one scale as they are, and those of several, "1,2,4" or "base_16=1,2,4", as scales
    by stage. Raises ValueError."""
    single = [value for value in values or [] if "," not in value]
    scales: dict[str, tuple[float, ...]] = {}
    names = [link.name for link in model.links if link.is_guidable]
    several = [value for value in values or [] if "," in value]
    for value in sorted(several, key=lambda v: "=" in v):  # a stage's own list overrides the general one
        stage, _, text = value.rpartition("=")
        if (stage and stage not in names) or not names:
            raise ValueError(
                f"--guidance {value}: stages with guidance are {', '.join(names) or 'none'}{nearest(stage, names)}"
            )
        try:
            numbers = tuple(float(number) for number in text.split(","))
        except ValueError:
            raise ValueError(f"--guidance {value}: write numbers with commas between, for instance 1,2,4") from None
        scales |= dict.fromkeys([stage] if stage else names, numbers)
    named = {stage for stage, _, _ in (value.rpartition("=") for value in single)}
    is_general = any("=" not in value for value in several)
    for stage in scales:
        if stage in named or (is_general and "" in named):
            raise ValueError(f"--guidance: one scale and several for stage {stage}; leave one of them out")
    if len({len(numbers) for numbers in scales.values()}) > 1:
        raise ValueError("--guidance: lists of different lengths; give each stage as many scales")
    return single, scales


def strips(
    prompts: Sequence[str], labels: Sequence[int], scales: Mapping[str, Sequence[float]]
) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, tuple[float, ...]]]:
    """Every description with every scale of guidance: prompts, labels and scales of a request, description by description."""
    columns = max(map(len, scales.values()), default=1)
    described = max(len(prompts), len(labels), 1)

    def repeated(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(each for each in values for _ in range(columns if len(values) > 1 else 1))

    return repeated(prompts), repeated(labels), {stage: tuple(each) * described for stage, each in scales.items()}


def weighted(said: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Parse the values of --also: ("green apple:0.5", "a hat") to (("green apple", 0.5), ("a hat", 1.0)). What follows the last
    colon is the weight if it is a number. Raises ValueError, also for what can only be meant as one."""
    texts = []
    for value in said:
        text, colon, number = value.rpartition(":")
        if colon and re.fullmatch(r"\s*|\s*[+-]?\d*,\d+\s*", number):
            raise ValueError(
                f"--also {value!r}: no weight behind the colon; write it with a point, for instance hat:0.5"
            )
        weight = number_in(number) if colon else None
        texts.append((value.strip(), 1.0) if weight is None else (text.strip(), weight))
        if not texts[-1][0]:
            raise ValueError(f"--also {value!r}: no text in it; write one, and its weight behind a colon")
    return tuple(texts)


def number_in(text: str) -> float | None:
    """The number that a text is, "1e-1" and "nan", too; None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def with_said(
    model: Cascade, settings: Mapping[str, Mapping[str, Any]], said: Sequence[str], scaled: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """The settings, those of the options, with the values of --set: "dynamic_threshold=0.99" for every stage that it concerns,
    "base_16.rho=5" for one; a list is written with commas. scaled: stages for which --guidance gives several scales. Raises
    ValueError, also for what an option says already."""
    names = [link.name for link in model.links]
    result = {name: dict(values) for name, values in settings.items()}
    for value in sorted(said, key=lambda v: "." in v.partition("=")[0]):
        where, equals, text = value.partition("=")
        stage, _, key = where.rpartition(".")
        if not equals or not key:
            raise ValueError(f"--set {value}: write KEY=VALUE or STAGE.KEY=VALUE")
        if stage and stage not in names:
            raise ValueError(f"--set {value}: no stage {stage!r}, there are {', '.join(names)}{nearest(stage, names)}")
        links = model.links[:-1] if key in HANDED_ON else model.links
        concerned = [stage] if stage else [link.name for link in links if concerns(key, link)]
        if not concerned:
            raise ValueError(f"--set {value}: no stage can follow it; leave it out")
        for name in concerned:
            if key in settings.get(name, {}) or (key == "guidance_scale" and name in scaled):
                raise ValueError(f"--set {value}: {FLAGS[key]} says it for stage {name} already; leave one of them out")
            result.setdefault(name, {})[key] = text.split(",") if "," in text else text
    return result


def class_numbers(model: Cascade, labels: Sequence[str], option: str = "--label") -> tuple[int, ...]:
    """Class numbers of the values of an option: names, decimal numbers, or the word `all`, unless a class has that name."""
    conditions = model.conditions
    if "all" in labels and conditions.num_classes and "all" not in conditions.classes:
        if len(labels) > 1:
            raise ValueError(f"{option} all: already names every class; leave the other {option} out")
        return tuple(range(conditions.num_classes))
    return conditions.numbers(labels, option)


def table(prompts: Sequence[str], labels: Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Every prompt with every label: the prompts and labels of a request, prompt by prompt. Without one of them, the other."""
    if not prompts or not labels:
        return tuple(prompts), tuple(labels)
    return tuple(prompt for prompt in prompts for _ in labels), tuple(labels) * len(prompts)


def lines_of(path: Path) -> list[str]:
    """The prompts of a text file, or of stdin if path is `-`: one a line, empty lines skipped; UTF-8, or UTF-16 with a byte
    order mark. Raises ValueError if the text does not decode or has no prompt, OSError if the file cannot be read."""
    content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    coding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(coding)
    except UnicodeDecodeError:
        raise ValueError(f"--prompts-file {path}: not a text file in UTF-8") from None
    body = text.replace("\r\n", "\n").replace("\r", "\n")  # str.splitlines would also split at U+2028 and form feeds
    lines = [line.strip() for line in body.split("\n")]
    if not any(lines):
        raise ValueError(f"--prompts-file {path}: no prompt in it; write one a line")
    return [line for line in lines if line]


def numbers_of(said: Sequence[str]) -> tuple[int, ...]:
    """Parse the values of --pick: ["3", "5-7,9"] to (3, 5, 6, 7, 9). Raises ValueError."""
    images: list[int] = []
    for part in (part.strip() for value in said for part in value.split(",")):
        match = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if high - low >= MAX_PICK:
            raise ValueError(
                f"--pick {part}: {high - low + 1:,} images are named; at most {MAX_PICK:,}, or leave it out and name a --num"
            )
        if low > high:
            raise ValueError(f"--pick {part or repr(part)}: write numbers of images, for instance 3 or 0-15")
        images += range(low, high + 1)
        if len(images) > MAX_PICK:
            raise ValueError(f"--pick: more than {MAX_PICK:,} images are named; at most so many")
    return tuple(images)


def parse_size(size: str) -> tuple[int, int] | None:
    """Parse "192x128" (width x height) to (128, 192); "" to None. Raises ValueError."""
    if not size:
        return None
    width, _, height = size.partition("x")
    sides = [int(side) if side.isdecimal() else 0 for side in (height, width)]
    if not all(0 < side <= MAX_SIDE for side in sides):
        raise ValueError(f"--size {size}: write WIDTHxHEIGHT in px, for instance 192x128, at most {MAX_SIDE} a side")
    return sides[0], sides[1]


def show(events: Iterable[Event], total: int, what: str = "") -> Iterator[Event]:
    """Pass events through, showing a progress bar per stage on a terminal, else a line per stage and chunk. what: prefix."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}
    try:
        for event in events:
            if isinstance(event, StageStarted) and event.stage not in bars:
                bars[event.stage] = tqdm(
                    total=total * event.nfe, desc=f"{what}{event.stage}", unit="call", disable=None, position=len(bars)
                )
            elif isinstance(event, Preview):
                bars[event.stage].update(len(event.index))
            elif isinstance(event, StageFinished) and bars[event.stage].disable:
                progress = f"images {event.index[0]} to {event.index[-1]} of {total} done"
                say(f"{what}{event.stage}: {progress}", sys.stderr)
            yield event
    finally:
        for bar in bars.values():
            bar.close()
