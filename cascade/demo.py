"""A first demo: a table of things in drawing styles from the weights that ship; then a small cascade learns shapes from nothing,
paints every caption of its world, and an exact reader counts those that were drawn right (first_minutes.py).

    python -m cascade.demo [--out runs/demo]
    python -m cascade.demo PICTURES --minutes 20

The second line does the same with a folder of one's own pictures (cascade/folder/); what follows is about the first.

The training calls the same functions as `python -m data.pack`, `python -m cascade.launch` and `sample.py`, by the preset
`shapes_tiny`. Both stages train at once, each in its own process with a share of the cores. Run it again with larger --base-images
and --sr-images, as its last line says, to continue the training.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from data.cli import run
from stages.training.length import check_minutes

BASE_IMAGES, SR_IMAGES, MINUTES = 24_000, 6_400, 20.0


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
        from .first_minutes import OUT, first_minutes

        return first_minutes(out or OUT, {"base_16": base_images, "sr_64": sr_images})
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


if __name__ == "__main__":
    run(main)
