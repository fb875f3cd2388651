"""A first demo: a table of things in drawing styles from the weights that ship; then it packs some of the emoji that ship with the
project, trains a tiny cascade on them from nothing, samples a grid.

    python -m cascade.demo [--out runs/demo]
    python -m cascade.demo PICTURES --minutes 20

The second line does the same with a folder of one's own pictures (cascade/folder/); what follows is about the first.

The training calls the same functions as `python -m data.pack`, `python -m cascade.launch` and `sample.py`, with a shortened
version of the preset: fewer pictures and fewer updates, hence a higher learning rate and EMA over fewer images
(stages/README.md). Both stages train at once, each in its own process with a share of the cores. Run it again with larger
--base-images and --sr-images to continue the training.
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from data.cli import run
from data.files import make_folder
from data.line import say
from stages.training.length import check_minutes

EMOJI = Path(__file__).parents[1] / "data" / "emoji64"
SHIPPED = Path(__file__).parent / "shipped" / "emoji_styles"
THINGS = ("red apple", "light bulb", "mushroom", "star")
PROMPTS = ("red heart", "grinning face", "blue square", "red apple")
FRUITS = "apple|banana|cherries|grapes|lemon|peach|pear|strawberry|tangerine|tomato|watermelon"
SHOWN = re.compile(
    rf"(faces|hearts) .*|.* (circle|square|{FRUITS})"
)  # 121 of the 392 emoji: as many as a network learns in minutes
SHORT = ("lr=0.08", "ema=[1000]")
BASE_IMAGES, SR_IMAGES, MINUTES = 7_200, 5_000, 20.0


def main(
    pictures: Annotated[Path | None, typer.Argument(help="folder of your own pictures, to make a cascade from")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="with PICTURES: dotted overrides, stages.base_16.train.lr=0.03")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for shards, runs and pictures  [default: runs/demo, runs/NAME]")
    ] = None,
    base_images: Annotated[int, typer.Option(help="without PICTURES: images the base stage sees")] = BASE_IMAGES,
    sr_images: Annotated[
        int, typer.Option(help="without PICTURES: images the super-resolution stage sees")
    ] = SR_IMAGES,
    minutes: Annotated[float, typer.Option(help="of training, samples and scores; packing comes before")] = MINUTES,
    size: Annotated[int, typer.Option(help="side of the pictures: 64, 128 or 256; 0: by what is there")] = 0,
    upscale: Annotated[bool, typer.Option("--upscale", help="enlarge pictures that are smaller")] = False,
    alpha: Annotated[
        bool | None, typer.Option(help="keep transparency; default: if 5 % of the pictures have some")
    ] = None,
    condition: Annotated[str, typer.Option(help="none, classes, text or both; default: by what is there")] = "",
    tokens: Annotated[int, typer.Option(help="to which captions are cut; 0: as 19 of 20 need")] = 0,
    val: Annotated[float | None, typer.Option(help="share to hold out; default: 5 %, 8 to 500 pictures")] = None,
    flip: Annotated[
        bool | None, typer.Option(help="train on mirrored pictures, too; default: if they look alike")
    ] = None,
    init: Annotated[str, typer.Option(help="cascade to start from, none, or the one that ships where it helps")] = "",
    source: Annotated[
        str | None, typer.Option(help="how to read PICTURES, as of data.pack: metadata, classes, plain")
    ] = None,
) -> None:
    """Paint with the weights that ship and train two tiny stages; or, with PICTURES, make a cascade from your own pictures."""
    without = {"--base-images": base_images != BASE_IMAGES, "--sr-images": sr_images != SR_IMAGES}
    beside = {
        "--minutes": minutes != MINUTES, "--size": size, "--upscale": upscale, "--alpha": alpha is not None,
        "--condition": condition, "--tokens": tokens, "--val": val is not None, "--flip": flip is not None,
        "--init": init, "--source": source,
    }  # fmt: skip
    if pictures is None and any(beside.values()):
        raise ValueError(f"{_said(beside)}: of a cascade from your own pictures; name their folder, or leave it out")
    if pictures is not None and any(without.values()):
        raise ValueError(f"{_said(without)}: of the demo without PICTURES; leave it out, --minutes says how long")
    check_minutes(minutes)
    if pictures is None:
        return first_minutes(out or Path("runs/demo"), base_images, sr_images)
    from data.index.items import Choices

    from .folder.choices import Asked
    from .folder.making import make

    asked = Asked(
        minutes=minutes, size=size, upscale=upscale, alpha=alpha, condition=condition, val=val, flip=flip, tokens=tokens,
        init=init, overrides=tuple(overrides or ()),
    )  # fmt: skip
    command = shlex.join(["python", "-m", "cascade.demo", *sys.argv[1:]])
    make(pictures, out or Path("runs") / pictures.resolve().name, asked, Choices(source=source), command)


def _said(options: Mapping[str, object]) -> str:
    """The options that were given, for a message."""
    return ", ".join(name for name, is_given in options.items() if is_given)


def first_minutes(out: Path, base_images: int, sr_images: int) -> None:
    """Paint with the weights that ship; then pack, train two tiny stages, sample: all within minutes of cloning."""
    import time

    import torch

    from data.pack.packer import PackSettings, pack
    from stages.training.threads import share_of

    from .cli import show, table
    from .config import load_config
    from .launch import run_all
    from .manifest import write_manifest
    from .output.destinations import Output, output_for
    from .pipeline import Cascade
    from .request import Request
    from .train.process import TrainingProcess

    started = time.monotonic()
    torch.set_flush_denormal(True)
    target = output_for(str(out / "demo.png"), stages=False, overwrite=(out / "cascade.json").exists())
    first = output_for(str(out / "shipped.png"), stages=False, overwrite=(out / "shipped.png").exists())
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def paint(model: Cascade, request: Request, target: Output, rows: str) -> None:
        plan = model.resolve(request)
        for path in target.write(show(model.sample(plan), len(plan.index)), plan):
            say(f"{path}: {rows}; {time.monotonic() - started:.0f} s so far")

    shipped = Cascade.load(SHIPPED, device=device)
    styles = shipped.links[0].sidecar.provenance.classes or ()
    say(f"painting {', '.join(THINGS)} with the weights that ship, each as {', '.join(styles)}")
    things, labels = table(THINGS, range(len(styles)))
    paint(
        shipped,
        Request(prompts=things, labels=labels, batch=len(things)),
        first,
        "a row each thing, a column each style",
    )
    shards = out / "shards"
    if not (shards / "index.json").exists():
        say(f"1/3 packing into {shards}")
        pack(chosen(EMOJI, out / "emoji"), shards, PackSettings(size=64, text_encoder="minilm", val=0.05))
    seen = {"base_16": base_images, "sr_64": sr_images}
    changes = {
        name: [f"stages.{name}.train.{override}" for override in (f"images={num}", *SHORT)]
        for name, num in seen.items()
    }
    config = load_config("emoji_tiny", [override for name in seen for override in changes[name]])
    write_manifest(config, out)

    say(f"2/3 training {' and '.join(f'{name} with {num:,} images' for name, num in seen.items())}, both at once")
    paths = ("--data", str(shards), "--out", str(out))
    trainings = [
        TrainingProcess(
            name,
            ("emoji_tiny", name, *paths, *changes[name]),
            out / f"{name}.log",
            threads=share_of(out / name, len(seen)),
        )
        for name in seen
    ]
    if not run_all(config, trainings, out):
        return

    say(f"3/3 sampling {', '.join(PROMPTS)}")
    trained = Cascade.load(out, device=device)
    paint(trained, Request(prompts=PROMPTS, num=8, batch=32), target, f"a row each of {', '.join(PROMPTS)}")


def chosen(source: Path, folder: Path) -> Path:
    """Copy the pictures that match SHOWN into `folder`, with a metadata.jsonl of their captions. Returns the folder."""
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if SHOWN.fullmatch(f"{row['group']} {row['text']}")]
    make_folder(folder)
    for row in rows:
        shutil.copy(source / row["file_name"], folder)
    lines = [json.dumps({"file_name": row["file_name"], "text": row["text"]}) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    run(main)
