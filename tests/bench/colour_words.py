"""Whether a colour word colours a thing that was never seen in that colour: "purple apple".

    python tests/bench/colour_words.py --cascade cascade/shipped/emoji_styles --until sr_64 --out runs/colours

PAIRS are 24 captions, three of each colour, whose two words stand together in no caption of the training set. A picture has the
colour if most of its coloured pixels (opaque, saturation above 0.3) have the name of that hue; the base rate is the same question
about pictures of the thing alone, from the same noise. OUT gets colours.json and a sheet: a column a pair, with and without the
word.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image

from data.cli import run
from data.files import make_folder
from data.line import say

PAIRS = {
    "red": ("banana", "fish", "tree"),
    "orange": ("cat face", "car", "bird"),
    "yellow": ("apple", "frog", "house"),
    "green": ("fish", "cat face", "umbrella"),
    "blue": ("apple", "banana", "mushroom"),
    "purple": ("apple", "strawberry", "frog"),
    "pink": ("car", "bird", "balloon"),
    "brown": ("fish", "flower", "house"),
}
# where on the circle of hues (0 to 1) a name begins and ends; brown is dark orange, pink a light or bluish red
HUES = {
    "red": (0.96, 0.035),
    "orange": (0.035, 0.115),
    "yellow": (0.115, 0.19),
    "green": (0.19, 0.46),
    "blue": (0.46, 0.7),
    "purple": (0.7, 0.83),
    "pink": (0.83, 0.96),
}


def named(hsv: np.ndarray) -> np.ndarray:
    """The name of each pixel's colour; empty where it is grey, black or white. `hsv`: (..., 3) in 0..1."""
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    names = np.full(hue.shape, "", dtype=object)
    for name, (low, high) in HUES.items():
        names[(hue >= low) & (hue < high) if low < high else (hue >= low) | (hue < high)] = name
    names[(names == "orange") & (value < 0.65)] = "brown"
    names[(names == "red") & (saturation < 0.5) & (value > 0.85)] = "pink"
    names[(saturation < 0.3) | (value < 0.15)] = ""
    return names


def color_of(picture: Image.Image) -> str:
    """The name that most coloured pixels have; empty for a picture with hardly any (below 2 %)."""
    opaque = np.asarray(picture.convert("RGBA"))[..., 3] > 127
    names = named(np.asarray(picture.convert("RGB").convert("HSV")) / 255.0)[opaque]
    found, counts = np.unique([name for name in names if name], return_counts=True)
    return str(found[counts.argmax()]) if counts.sum() > 0.02 * opaque.size else ""


def main(
    cascade: Annotated[Path, typer.Option(help="a cascade of captions, with or without styles")],
    out: Annotated[Path, typer.Option(help="folder for colours.json and the sheet")],
    until: Annotated[str | None, typer.Option(help="last stage")] = None,
    style: Annotated[list[str] | None, typer.Option(help="labels; default: all")] = None,
    num: Annotated[int, typer.Option(help="pictures of a pair and style")] = 2,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "bf16",
) -> None:
    """Paint, name the colours, count."""
    from cascade.events import StageFinished
    from cascade.pipeline import Cascade
    from cascade.request import Request

    torch.set_flush_denormal(True)
    loaded = Cascade.load(cascade, last=until, precision=precision)
    make_folder(out)
    styles = style or list(loaded.links[0].sidecar.provenance.classes or (None,))
    things = [(color, thing) for color, group in PAIRS.items() for thing in group]
    right: dict[str, list[bool]] = {}
    sheet: list[list[Image.Image]] = []
    for label in styles:
        for told in (True, False):
            prompts = [f"{color} {thing}" if told else thing for color, thing in things]
            row: list[Image.Image] = []
            request = Request(
                num=num,
                prompts=tuple(prompts),
                labels=(label,) if label else (),
                same_noise=True,
                last=loaded.links[-1].name,
            )
            for event in loaded.sample(request):
                if isinstance(event, StageFinished) and event.stage == loaded.links[-1].name:
                    row += [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in event.images]
            seen = [color_of(picture) for picture in row]
            key = f"{label or 'all'}, {'colour told' if told else 'thing alone'}"
            right[key] = [
                name == color for name, color in zip(seen, [c for c, _ in things for _ in range(num)], strict=True)
            ]
            say(f"{key:28} {sum(right[key]):3} of {len(row)}")
            sheet.append(row[::num])
    for told in ("colour told", "thing alone"):
        votes = [each for key, values in right.items() if key.endswith(told) for each in values]
        say(f"{told}: {sum(votes)} of {len(votes)} ({100 * sum(votes) / len(votes):.0f} %)")
    (out / "colours.json").write_text(json.dumps({"pairs": things, "right": right}, indent=1) + "\n")
    side = sheet[0][0].width
    picture = Image.new("RGB", (side * len(things), side * len(sheet)), "white")
    for y, row in enumerate(sheet):
        for x, each in enumerate(row):
            picture.paste(each.convert("RGB"), (x * side, y * side), each.convert("RGBA").getchannel("A"))
    picture.save(out / "sheet.png")


if __name__ == "__main__":
    run(main)
