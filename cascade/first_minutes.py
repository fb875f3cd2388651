"""The first minutes: a table from the weights that ship; then a small cascade that learns shapes from nothing, and its score.

Scenes of one shape (data/world) are drawn and packed, both stages of the preset `shapes_tiny` train at once, each in its own
process with a share of the cores, and every caption of this world is painted once. Its reader, which is exact, tells which
captions were drawn right; among them are pairs of shape and colour that no training picture shows.
"""

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from data.alpha import to_image
from data.files import make_folder, replace_bytes
from data.line import say
from data.pack.packer import PackSettings, pack
from data.shapes import COLORS
from data.world.captions import Group
from data.world.kinds import OBJECT_KINDS
from data.world.scenes import HIDDEN_PAIRS, write_folder
from data.world.score import shows
from stages.tools.memory_reuse import keep_freed_memory
from stages.training.threads import share_of

from .cli import show
from .cli import table as each_with_each
from .config import CascadeConfig, load_config
from .launch import run_all
from .manifest import MANIFEST, write_manifest
from .output.destinations import Output, is_ours, output_for
from .output.pictures import read_png
from .output.sheet import Captioned, line, sheet, table
from .pipeline import Cascade
from .request import Request
from .train.process import TrainingProcess

SHIPPED = Path(__file__).parent / "shipped" / "emoji_styles"
THINGS = ("red apple", "light bulb", "mushroom", "star")
PRESET = "shapes_tiny"
OUT = Path("runs/demo")
SCENES, SIDE = 2_000, 64  # pictures to pack; px
PAIRS = tuple(product(OBJECT_KINDS, COLORS))
CAPTIONS = tuple(Group(count=1, kind=kind, color=color).text for kind, color in PAIRS)
UNSEEN = tuple(pair in HIDDEN_PAIRS.pairs for pair in PAIRS)
LONGER = 4  # times as many images in the line that goes on
CELL = 2 * SIDE  # px of a picture on the sheet


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Pictures uint8 (n, 3, SIDE, SIDE), one of each of CAPTIONS, and whether they show them."""

    pictures: Tensor
    right: tuple[bool, ...]

    @classmethod
    def of(cls, pictures: Tensor) -> "Drawn":
        """Read the pictures."""
        pairs = zip(pictures, CAPTIONS, strict=True)
        return cls(pictures=pictures, right=tuple(shows(each.permute(1, 2, 0).numpy(), text) for each, text in pairs))

    def __str__(self) -> str:
        unseen = [right for right, unseen in zip(self.right, UNSEEN, strict=True) if unseen]
        return (
            f"{sum(self.right)} of {len(self.right)} captions drawn right "
            f"({sum(unseen)} of the {len(unseen)} that no training picture shows)"
        )


def first_minutes(out: Path, images: Mapping[str, int]) -> None:
    """Paint with the weights that ship; then draw, pack, train two tiny stages, paint, count: all within minutes of cloning.

    images: how many each stage sees, by name.
    """
    started = time.monotonic()
    torch.set_flush_denormal(True)
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    targets = [output_for(str(out / name), stages=False) for name in ("shipped.png", "trained.png")]
    check_free(out)
    make_folder(out)
    config = load_config(PRESET, overrides(images))

    shipped = Cascade.load(SHIPPED, device=device)
    styles = shipped.links[0].sidecar.provenance.classes or ()
    say(f"painting {', '.join(THINGS)} with the weights that ship, each as {', '.join(styles)}")
    things, labels = each_with_each(THINGS, range(len(styles)))
    shelf = paint(shipped, Request(prompts=things, labels=labels, batch=len(things)), targets[0])
    say(f"{targets[0].path}: a row each thing, a column each style; {time.monotonic() - started:.0f} s so far")

    if not (out / "shards" / "index.json").exists():
        say(f"1/3 drawing {SCENES:,} scenes of one shape, packing them into {out / 'shards'}")
        scenes = write_folder(out / "scenes", SCENES, SIDE, show="train", objects=(1,))
        pack(scenes, out / "shards", PackSettings(size=SIDE, text_encoder="minilm", val=0.05))
    if not trained(config, images, out):
        return

    say(f"3/3 painting the {len(CAPTIONS)} captions of this world")
    painted = paint(Cascade.load(out, device=device), Request(prompts=CAPTIONS, batch=len(CAPTIONS)), targets[1])
    drawn = Drawn.of(cells(painted, SIDE))
    content = BytesIO()
    headings = (
        f"From the weights that ship, {SHIPPED.name}: {', '.join(THINGS)}, each as {', '.join(styles)}",
        f"From nothing, by {' and '.join(f'{num:,}' for num in images.values())} images: {drawn}",
    )
    composed(shelf, drawn, headings).save(content, "PNG")
    replace_bytes(out / "demo.png", content.getvalue())
    say(f"{out / 'demo.png'}: {drawn}; {time.monotonic() - started:.0f} s in all")
    say(f"it goes on from there with: {command(out, {name: LONGER * num for name, num in images.items()})}")


def check_free(out: Path) -> None:
    """Raise ValueError if a picture that the demo writes there is one that it did not write: it replaces only its own. The sheet,
    which has no metadata, is its own where it lies beside a cascade."""
    is_own = {out / name: is_ours(out / name) for name in ("shipped.png", "trained.png")}
    is_own[out / "demo.png"] = (out / MANIFEST).is_file()
    for path, own in is_own.items():
        if os.path.lexists(path) and not own:
            raise ValueError(
                f"--out {out}: {path} is there and the demo did not write it; move it away, or choose another place"
            )


def overrides(images: Mapping[str, int]) -> list[str]:
    """The lengths of the trainings, as dotted keys of the preset."""
    return [f"stages.{name}.train.images={num}" for name, num in images.items()]


def command(out: Path, images: Mapping[str, int]) -> str:
    """The command that trains so many images; in an `out` that has seen fewer it goes on."""
    lengths = [word for name, num in images.items() for word in (f"--{name.partition('_')[0]}-images", str(num))]
    return shlex.join(["python", "-m", "cascade.demo", *(["--out", str(out)] if out != OUT else []), *lengths])


def paint(model: Cascade, request: Request, target: Output) -> Tensor:
    """Sample a request into a grid's file; the grid, uint8 (c, h, w)."""
    plan = model.resolve(request)
    with target.held():
        (path,) = target.write(show(model.sample(plan), len(plan.index)), plan)
        return read_png(path)


def trained(config: CascadeConfig, images: Mapping[str, int], out: Path) -> bool:
    """Train all stages at once; False if a signal stopped them."""
    say(f"2/3 training {' and '.join(f'{name} with {num:,} images' for name, num in images.items())}, both at once")
    write_manifest(config, out)
    arguments = ("--data", str(out / "shards"), "--out", str(out), *overrides(images))
    trainings = [
        TrainingProcess(
            name,
            (PRESET, name, *arguments),
            out / f"{name}.log",
            threads=share_of(out / name, len(images)),
        )
        for name in images
    ]
    return run_all(config, trainings, out)


def cells(grid: Tensor, side: int) -> Tensor:
    """The pictures of a grid that `output.pictures.grid` arranged, uint8 (n, c, side, side), row by row; empty places, too."""
    border = 2
    rows, columns = ((length - border) // (side + border) for length in grid.shape[1:])
    starts = product(range(rows), range(columns))
    corners = [(border + row * (side + border), border + column * (side + border)) for row, column in starts]
    return torch.stack([grid[:, y : y + side, x : x + side] for y, x in corners])


def composed(shelf: Tensor, drawn: Drawn, headings: Sequence[str]) -> Image.Image:
    """Both tables under their headings: that of the weights that ship, shrunk to the width of the other one."""
    texts = [text + ("*" if unseen else "") for text, unseen in zip(CAPTIONS, UNSEEN, strict=True)]
    captioned = [
        Captioned(picture=to_image(picture), caption=text, is_fault=not right)
        for picture, text, right in zip(drawn.pictures, texts, drawn.right, strict=True)
    ]
    below, above = table(captioned, len(COLORS), CELL), to_image(shelf)
    above = above.resize((below.width, round(above.height * below.width / above.width)), Image.Resampling.LANCZOS)
    legend = "in red: drawn wrong; *: a pair of shape and colour that no training picture shows"
    width = below.width
    return sheet([line(headings[0], width), above, line(headings[1], width), below, line(legend, width, 15)])
