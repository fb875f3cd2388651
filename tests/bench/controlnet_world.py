"""Whether the samples of a control net follow its maps, measured exactly: scenes of data/world whose objects' places are given.

    python tests/bench/controlnet_world.py --base BUNDLE --out runs/controlnet_shapes

BUNDLE is a stage, text to pictures of 16 px or more, that has learned data/world. A map shows a disc where each object lies, of its
radius (a disc within another is a hole), and neither kind nor colour: these the caption says alone, and places the map alone. A
copy of the encoder learns from scenes without the hidden combinations; the captions that are painted name one (show="test").

It prints, for pictures of one and of two objects, the share whose objects lie within 1.5 of 16 px of the discs' centres, one at
each and none besides; and the share of captions drawn right: of the frozen stage, and of the control net at three scales with the
scene's own map, and with that of another scene of as many objects in the same relation. OUT/grid.png: rows of map, frozen stage,
the scales, the other's map and what it gives. The same command goes on with a training that was stopped.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import hypot
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from machine import describe, table
from PIL import Image
from torch import Tensor

from data.batch import Batch, to_float
from data.cli import run
from data.files import make_folder
from data.world.kinds import Object, coverage
from data.world.reader import read
from data.world.scenes import Scene, Show, draw, scene
from data.world.score import compare
from stages.bundle import load_bundle, read_sidecar
from stages.config import BaseConfig
from stages.sampling import conditioned, noise_of, sample_alone
from stages.stage import Stage
from stages.training.validate import held_out

SEED = 1  # of the scenes
DRAWN = 64  # px of the pictures that are packed
NEAR = 1.5 / 16  # of the picture's side
COUNTS = (1, 2)  # of objects, in turn
SHOWN = 16  # columns of the grid
ENLARGED = 3  # how often each of its pixels is repeated, each way
SCALES = (0.0, 0.5, 1.0)
HEAD = ("", "one object: in place", "caption right", "two objects: in place", "caption right")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Pictures (n, 3, h, w) in [-1, 1], and of each the scene whose caption, and that whose map, it was given."""

    name: str
    pictures: Tensor
    captioned: list[Scene]
    followed: list[Scene]


def main(
    base: Annotated[Path, typer.Option(help="bundle of a stage that has learned data/world from captions")],
    out: Annotated[Path, typer.Option(help="folder for scenes, shards, the run and the grid")],
    images: Annotated[int, typer.Option(help="length of the training")] = 9_600,
    lr: Annotated[float, typer.Option(help="its rate")] = 0.1,
    scenes: Annotated[int, typer.Option(help="that it learns from")] = 8_000,
    num: Annotated[int, typer.Option(help="held-out scenes, half of them of one object")] = 192,
) -> None:
    """Draw, pack, train, paint, measure."""
    config = controlled(base, images, lr)
    shards = {"train": packed(out, scenes, config, "train"), "test": packed(out, num, config, "test")}
    from stages.training.loop import train
    from stages.training.runtime import Runtime

    runtime = Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
    bundle = train(config, name="controlled", data=str(shards["train"]), out=out / "run", runtime=runtime)
    batches = held_out(config, str(shards["test"]), num, split="train")
    rows = painted(load_bundle(base), load_bundle(bundle), list(batches))
    print(describe())
    print(table(HEAD, map(cells, rows)))
    grid(rows, out / "grid.png")


def controlled(base: Path, images: int, lr: float) -> BaseConfig:
    """The config of a control net beside a bundle: the bundle's own, with gray maps and another training. Raises ValueError for a
    stage that reads no captions or takes a picture."""
    known = read_sidecar(base).config
    if known.takes or not known.cond.text:
        raise ValueError(f"--base {base}: name a stage that paints from captions alone")
    values = known.model_dump()
    values["cond"] |= {"maps": {"channels": 1}}
    values["controlnet"] = {"base": str(base)}
    lengths = {"images": images, "lr": lr, "warmup": images // 40, "ema": (images // 10,), "workers": 0}
    every = {"save_every": 4_000, "grid_every": images, "log_every": 1_600}
    values["train"] |= {**lengths, **every, "snapshot_every": 0, "val_images": 0}
    return BaseConfig.model_validate(values)


def content(k: int, show: Show) -> Scene:
    """Scene k: of one object if k is even, else of two."""
    return scene(k, SEED, show=show, objects=(COUNTS[k % len(COUNTS)],))


def layout(objects: tuple[Object, ...], size: int) -> Image.Image:
    """A gray map of size x size px: discs at the objects' places, each turning what it covers from black to white or back."""
    gray = np.zeros((size, size))
    for each in objects:
        disc = coverage(replace(each, kind="circle"), slice(0, size), slice(0, size), size, 2)
        gray += disc * (1 - 2 * gray)
    return Image.fromarray(np.rint(255 * gray).astype(np.uint8))


def packed(out: Path, num: int, config: BaseConfig, show: Show) -> Path:
    """Shards of the first scenes and their maps, at the stage's size; as they are where there are some."""
    from data.pack.packer import pack
    from data.pack.settings import PackSettings

    shards, pictures, maps = (out / show / name for name in ("shards", "pictures", "maps"))
    if (shards / "index.json").is_file():
        return shards
    text = config.cond.text
    assert text
    rows = []
    for folder in (pictures, maps):
        make_folder(folder)
    for k in range(num):
        what, name = content(k, show), f"{k:06d}.png"
        draw(what, DRAWN).save(pictures / name)
        layout(what.objects, DRAWN).save(maps / name)
        rows.append(json.dumps({"file_name": name, "text": what.caption.text}) + "\n")
    (pictures / "metadata.jsonl").write_text("".join(rows))
    settings = PackSettings(
        size=config.resolution, shards=config.train.streams, maps=str(maps),
        text_encoder=text.encoder, text_tokens=text.packed_tokens,
    )  # fmt: skip
    pack(pictures, shards, settings, workers=0)
    return shards


def painted(frozen: Stage, stage: Stage, batches: list[Batch]) -> list[Row]:
    """A row for the scenes themselves, which must be read as right, one for the frozen stage, and one for each scale with own and
    other maps; all samples with the same noise."""
    scenes = [content(k, "test") for batch in batches for k in numbers(batch)]
    maps = torch.cat([batch.cond.parts["maps"].value for batch in batches])
    truth = to_float(torch.cat([batch.image for batch in batches]))
    rows = [
        Row(name=name, pictures=pictures, captioned=scenes, followed=scenes)
        for name, pictures in (("the scenes", truth), ("frozen stage", sampled(frozen, batches, 1.0)))
    ]
    for whose, places, scales in (
        ("own map", list(range(len(scenes))), SCALES),
        ("another's map", partners(scenes), SCALES[1:]),
    ):
        given, followed = list(with_maps(batches, maps[places])), [scenes[place] for place in places]
        for scale in scales:
            pictures = sampled(stage, given, scale)
            rows.append(Row(name=f"{whose}, {scale:g}", pictures=pictures, captioned=scenes, followed=followed))
    return rows


def partners(scenes: list[Scene]) -> list[int]:
    """For each scene another of as many objects in the same relation, whose map its caption can follow: the next in turn."""
    groups: dict[tuple[int, str | None], list[int]] = {}
    for k, each in enumerate(scenes):
        groups.setdefault((len(each.objects), each.caption.relation), []).append(k)
    following = {k: group[(place + 1) % len(group)] for group in groups.values() for place, k in enumerate(group)}
    return [following[k] for k in range(len(scenes))]


def with_maps(batches: list[Batch], maps: Tensor) -> Iterator[Batch]:
    """The batches with other maps (n, 1, h, w), in order."""
    for batch, own in zip(batches, maps.split([len(batch) for batch in batches]), strict=True):
        yield replace(batch, cond=batch.cond.given(maps=own))


@torch.inference_mode()
def sampled(stage: Stage, batches: list[Batch], scale: float) -> Tensor:
    """Samples (n, c, h, w) of a stage, with the noise of their scenes' numbers."""
    settings, controls = stage.config.sample, stage.config.controlnet is not None
    settings = settings.model_copy(update={"control_scale": scale}) if controls else settings
    pictures = []
    for batch in batches:
        noise = noise_of("bench", 0, torch.tensor(numbers(batch)), "cpu")
        cond = conditioned(stage, batch.cond if controls else batch.cond.without("maps"), None, settings, noise)
        pictures.append(sample_alone(stage, settings, cond, noise, (len(batch), 3, *stage.config.size)))
    return torch.cat(pictures)


def numbers(batch: Batch) -> list[int]:
    """Which scenes its pictures are."""
    return [int(key) for key in batch.keys]


def cells(row: Row) -> list[str]:
    """What the table says of a row."""
    seen = [read(picture) for picture in levels(row.pictures)]
    results: dict[int, list[tuple[bool, bool]]] = {count: [] for count in COUNTS}
    for objects, own, followed in zip(seen, row.captioned, row.followed, strict=True):
        right = not compare(objects, own.caption)
        results[len(followed.objects)].append((in_place(objects, followed.objects), right))
    shares = [f"{sum(each) / len(each):.2f}" for found in results.values() for each in zip(*found, strict=True)]
    return [row.name, *shares]


def in_place(seen: Sequence[Object], wanted: Sequence[Object]) -> bool:
    """Whether there are as many objects as wanted, and each lies near another of those."""
    if len(seen) != len(wanted):
        return False
    return any(
        all(hypot(a.x - b.x, a.y - b.y) <= NEAR for a, b in zip(order, wanted, strict=True))
        for order in permutations(seen)
    )


def levels(pictures: Tensor) -> np.ndarray:
    """Pictures in [-1, 1] as (n, h, w, 3) uint8."""
    return ((pictures.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def grid(rows: list[Row], path: Path) -> None:
    """A column for each scene: map, frozen stage, the scales; another's map, and what it gives at scale 1."""
    size = rows[0].pictures.shape[-1]

    def maps(row: Row) -> np.ndarray:
        pictures = (layout(each.objects, DRAWN).resize((size, size), Image.Resampling.BICUBIC) for each in row.followed)
        return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])

    own, other = rows[1 : 2 + len(SCALES)], rows[-1]
    lines = [maps(own[0]), *(levels(row.pictures) for row in own), maps(other), levels(other.pictures)]
    cut = np.stack([line[:SHOWN] for line in lines])  # (rows, columns, h, w, 3)
    padded = np.pad(cut, [(0, 0), (0, 0), (0, 1), (0, 1), (0, 0)], constant_values=255)
    whole = padded.transpose(0, 2, 1, 3, 4).reshape(len(cut) * (size + 1), SHOWN * (size + 1), 3)
    picture = Image.fromarray(whole)
    picture.resize((picture.width * ENLARGED, picture.height * ENLARGED), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    run(main)
