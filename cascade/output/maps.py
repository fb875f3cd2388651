"""Maps from files, for a request to stages that were trained with maps: one file, several, or all pictures of a folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from data.alpha import to_pixels
from data.decode import PACK_FORMATS, decode_image, is_gray, read_file

from ..conditions import Conditions
from .given import pictures_in


def map_files(paths: Sequence[Path]) -> list[Path]:
    """The files of --map, and all pictures of given folders in the order of their names. Raises ValueError, OSError."""
    files: list[Path] = []
    for path in paths:
        files += pictures_in(path, "--map")[0] if path.is_dir() else [path]
    return files


def maps_of(files: Sequence[Path], conditions: Conditions) -> Tensor | None:
    """The maps uint8 (n, c, h, w) of files of one size, with the channels that the cascade takes; None without files. Raises
    ValueError."""
    if not files:
        return None
    maps = [map_from(_read(path), conditions, f"--map {path}") for path in files]
    for path, each in zip(files, maps, strict=True):
        if each.shape != maps[0].shape:
            (h, w), (first_h, first_w) = each.shape[-2:], maps[0].shape[-2:]
            raise ValueError(f"--map {path}: {w}x{h} px, {files[0]} has {first_w}x{first_h} px; give maps of one size")
    return torch.cat(maps)


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise ValueError(f"--map {path}: {error.strerror or error}; name a picture, or a folder of them") from None


def map_from(content: bytes, conditions: Conditions, what: str, formats: tuple[str, ...] = PACK_FORMATS) -> Tensor:
    """A map uint8 (1, c, h, w) of an encoded picture, with the channels that the cascade takes: a gray one suits a cascade of
    coloured maps, too. what: begins the message. Raises ValueError."""
    if not conditions.maps:
        raise ValueError(f"{what}: a map, but this cascade takes none; leave it out")
    channels = max(conditions.maps)
    try:
        gray = is_gray(content, formats)
        pixels = to_pixels(decode_image(content, formats=formats))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if channels == 1 and not gray:
        raise ValueError(f"{what}: a coloured map, this cascade takes gray ones; convert it")
    return torch.tensor(pixels[:channels])[None]


def check_proportions(maps: Tensor | None, size: tuple[int, int], what: str) -> None:
    """Raise ValueError unless maps (n, c, h, w) have the proportions of pictures of (height, width) `size`, to within a pixel:
    resized to others, what they say would lie elsewhere. what: begins the message."""
    if maps is None:
        return
    (h, w), (height, width) = maps.shape[-2:], size
    if abs(h * width - w * height) > max(height, width):
        raise ValueError(
            f"{what}: {w}x{h} px for a picture of {width}x{height} px; give a map of the same proportions, or another size"
        )
