"""How many captions of data/world a cascade draws right, by the number of objects, read exactly.

    python tests/bench/world_captions.py runs/shapes --last sr_64 --num 256

The captions name combinations that no picture of the train set showed, `scene(k, seed, show="test")`; the seed chooses them
and their noise, so settings are chosen with one and told of another. There are seven such captions of one object, which repeat.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from data.cli import run
from data.files import make_folder
from data.line import say
from data.world.scenes import RADII, scene
from data.world.score import score, shows


def main(
    cascade: Annotated[Path, typer.Argument(help="a cascade that has learned data/world")],
    last: Annotated[str | None, typer.Option(help="last stage")] = None,
    num: Annotated[int, typer.Option(min=1, help="pictures of each number of objects")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="of captions and noise")] = 1,
    sheet: Annotated[Path | None, typer.Option(help="a picture of the first 64 of each, wrong ones framed")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "bf16",
) -> None:
    """Paint, read, count."""
    from cascade.events import StageFinished
    from cascade.pipeline import Cascade
    from cascade.request import Request

    torch.set_flush_denormal(True)
    loaded = Cascade.load(cascade, last=last, precision=precision)
    name = loaded.links[-1].name
    if sheet:
        make_folder(sheet.parent)
    tiles = []
    for objects in RADII:
        scenes = (scene(index, seed, show="test", objects=(objects,)) for index in range(num))
        captions = tuple(each.caption.text for each in scenes)
        pictures = []
        for event in loaded.sample(Request(prompts=captions, seed=seed, batch=64, last=name)):
            if isinstance(event, StageFinished) and event.stage == name:
                pictures += [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in event.images]
        say(f"{objects} object{'s' * (objects > 1)}: {score(pictures, captions)}")
        tiles += [(each, shows(each, text)) for each, text in zip(pictures[:64], captions, strict=False)]
    if sheet:
        framed(tiles).save(sheet)


def framed(tiles: list[tuple[Image.Image, bool]], across: int = 16) -> Image.Image:
    """All pictures side by side, enlarged to 64 px if smaller, those that are wrong on red."""
    side = max(64, tiles[0][0].width)
    made = Image.new("RGB", ((side + 8) * across, (side + 8) * -(-len(tiles) // across)), "white")
    for k, (picture, right) in enumerate(tiles):
        x, y = (side + 8) * (k % across), (side + 8) * (k // across)
        if not right:
            made.paste("red", (x, y, x + side + 8, y + side + 8))
        made.paste(picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (x + 4, y + 4))
    return made


if __name__ == "__main__":
    run(main)
