"""One side of a comparison: pictures of a folder, a tar or a data set, at one size, or the moments in a statistics file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cascade.judge.moments import Moments
from cascade.judge.said import captions_of
from cascade.judge.stored import load_moments
from data.alpha import on_background, to_pixels
from data.batch import to_float, to_uint8
from data.decode import PACK_FORMATS, WHITE, Color, decode_image, load_image
from data.index import INDEX_NAME
from data.index.tree import look as files_below
from data.read.shards import read_split
from data.resize import downsample
from data.tar import PACK_MEMBERS, Span, contents, is_tar

BATCH = 64  # pictures read at once
BACKGROUNDS: dict[str, Color] = {"white": WHITE, "grey": (128, 128, 128)}  # near-white ink is seen on the second only


@dataclass(frozen=True, kw_only=True)
class Side:
    """Pictures uint8 (n, 3, size, size) with a name each, or moments alone. broken: files that could not be read, and why.

    background: what transparency was laid on, as far as it is known. captions: one a picture, "" without one; () if not asked for.
    """

    name: str
    pictures: Tensor | None = None
    names: tuple[str, ...] = ()
    moments: Moments | None = None
    broken: tuple[str, ...] = ()
    background: str = "unknown"
    captions: tuple[str, ...] = ()


def load_side(
    source: str, *, size: int = 0, split: str = "val", background: str = "white",
    captions: bool = False, note: Callable[[str], None] = lambda _: None,
) -> Side:  # fmt: skip
    """Load a side from a .npz file, a folder or a tar of pictures, or a data set of which `split` is read.

    size: px, to which larger square pictures shrink by THE downsample; 0: their own, which must be one.
    background: of BACKGROUNDS, on which the pictures of a folder or a tar are laid where they are transparent.
    captions: whether to read these, too. Raises ValueError, OSError.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"background {background}: allowed are {' and '.join(BACKGROUNDS)}")
    path = Path(source)
    if path.suffix == ".npz":
        return Side(name=source, moments=load_moments(path))
    if path.is_file() and not is_tar(path.name):
        raise ValueError(
            f"{path} is a file; name a folder or a .tar of pictures, a data set or a .npz file of statistics"
        )
    if path.is_file() and not (path.parent / INDEX_NAME).exists():
        side = _of_tar(path, size, background, note)
    elif path.is_dir() and not (path / INDEX_NAME).exists() and not any(path.glob("*.tar")):
        side = _of_folder(path, size, background, note)
    else:
        side = _of_data(source, size, split, background)
    if not captions:
        return side
    said = captions_of(source, split)
    return replace(side, captions=tuple(said.get(name, "") for name in side.names))


def _of_folder(folder: Path, size: int, background: str, note: Callable[[str], None]) -> Side:
    color = BACKGROUNDS[background]
    found = [(str(path), partial(load_image, folder / path, color)) for path in files_below(folder).pictures]
    if not found:
        raise ValueError(f"{folder} has no pictures; name a folder of pictures, a data set or a .npz file")
    return _of_pictures(folder, found, size, background, note)


def _of_tar(path: Path, size: int, background: str, note: Callable[[str], None]) -> Side:
    """A tar without an index beside it; a shard of a data set is read as that data set."""
    color, found = BACKGROUNDS[background], []
    for each in contents(path):
        for extension in sorted(each.members.keys() & set(PACK_MEMBERS)):
            found.append((f"{each.key}.{extension}", partial(_decoded, each.members[extension], color)))
    if not found:
        raise ValueError(f"{path} has no pictures ({', '.join(PACK_MEMBERS)}); name a tar that has")
    return _of_pictures(path, found, size, background, note)


def _decoded(span: Span, background: Color) -> Image.Image:
    return decode_image(span.read(), background=background, formats=PACK_FORMATS)


def _of_pictures(
    source: Path, found: Iterable[tuple[str, Callable[[], Image.Image]]], size: int, background: str,
    note: Callable[[str], None],
) -> Side:  # fmt: skip
    """The side of named pictures. What cannot be read is named and left out. Raises ValueError if none is left or sizes differ."""
    pictures, names, broken = [], [], []
    for name, load in found:
        try:
            picture = _tensor(load(), size)
        except ValueError as error:
            broken.append(f"{name}: {error}")
            note(f"{source / name} is left out: {error}")
            continue
        pictures.append(picture)
        names.append(name)
    if not pictures:
        raise ValueError(f"{source}: none of {len(broken):,} pictures can be used; the first: {broken[0]}")
    sides = {tuple(each.shape[1:]) for each in pictures}
    if len(sides) != 1:
        told = ", ".join(f"{w} x {h}" for h, w in sorted(sides)[:4])
        raise ValueError(f"{source}: pictures of {told} px; one size is needed: add --size, or resize them")
    return Side(
        name=str(source), pictures=torch.stack(pictures), names=tuple(names), broken=tuple(broken), background=background
    )  # fmt: skip


def _tensor(image: Image.Image, size: int) -> Tensor:
    pixels = torch.from_numpy(to_pixels(image))
    if not size:
        return pixels
    if pixels.shape[1] != pixels.shape[2] or pixels.shape[1] < size:
        raise ValueError(f"{image.width} x {image.height} px; a square of at least {size} px is needed")
    return to_uint8(downsample(to_float(pixels[None]), (size, size)))[0]


def _of_data(source: str, size: int, split: str, background: str) -> Side:
    from data.read.mixture import facts, parse

    places = parse([source])
    index = facts(places)
    packed_on = str(index.settings.get("background", "unknown"))
    if index.channels == 4:
        packed_on = background
    elif background != "white" and packed_on != background:
        raise ValueError(
            f"data {source} was packed on {packed_on}, its pictures have no transparency left for background {background}; "
            "name the folder of the pictures, or leave --background out"
        )
    resolution = size or (index.size[0] if index.size else 0)
    if not resolution:
        raise ValueError(f"data {source} has pictures of several sizes; add --size")
    pictures: list[Tensor] = []
    names: list[str] = []
    for batch in read_split(places, split, batch=BATCH, resolution=resolution):
        whole = batch.image
        small = (
            whole if whole.shape[-1] == resolution else to_uint8(downsample(to_float(whole), (resolution, resolution)))
        )
        pictures.append(on_background(small, BACKGROUNDS[background]))
        names += batch.keys
    return Side(name=f"{source} ({split})", pictures=torch.cat(pictures), names=tuple(names), background=packed_on)
