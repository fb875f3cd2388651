"""Pictures to PNG files with metadata, one by one or as a grid; and a user's picture to a tensor.

Files are written under a temporary name and renamed, so an interrupt leaves none half-written.
"""

import json
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from data.alpha import to_image, to_pixels
from data.batch import to_float, to_uint8
from data.bounds import TooMuchError, check_png_head
from data.decode import check_file, load_image
from data.resize import downsample

METADATA_KEY = "cascade"
MAX_PNG = 4 << 30  # bytes; reading the metadata decodes no pixels


def save_png(image: Tensor, path: Path, metadata: dict[str, Any]) -> None:
    """Write a picture uint8 (c, h, w); metadata as JSON in the PNG's text chunk "cascade"."""
    info = PngInfo()
    info.add_text(METADATA_KEY, json.dumps(metadata))
    part = path.with_name(
        f".{os.getpid()}.{threading.get_ident()}.part"
    )  # a short name, since that of `path` may be as long as the file system allows
    try:
        to_image(image).save(part, format="PNG", pnginfo=info)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata that `save_png` wrote. Raises ValueError if they are missing or damaged, OSError."""
    check_file(path, MAX_PNG)
    if not path.stat().st_size:
        raise _foreign(path, "it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            check_png_head(content)
        except TooMuchError as error:
            raise ValueError(f"{path}: {error}") from None
    try:
        with Image.open(path, formats=("PNG",)) as image:
            text = image.info.get(METADATA_KEY)
    except Exception as error:  # decoders raise many types for invalid bytes
        if isinstance(error, OSError) and error.errno:  # an error of the disk, not of the decoder
            raise
        raise _foreign(path, "it is of another kind, or damaged") from None
    if text is None:
        raise ValueError(f"{path}: no {METADATA_KEY!r} text in it; sample.py did not write it, or it was saved again")
    return parse_metadata(text, path)


def _foreign(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path}: no PNG that can be read ({why}); name one that sample.py wrote, or the .json beside one in a shard"
    )


def parse_metadata(text: str | bytes, path: Path) -> dict[str, Any]:
    """Parse metadata. Raises ValueError if the text is not a JSON object; `path` is for the message."""
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise ValueError(f"{path}: damaged metadata; not what sample.py writes about a picture")
    return metadata


def read_png(path: Path) -> Tensor:
    """Read a picture that `save_png` wrote, as uint8 (c, h, w)."""
    with Image.open(path) as image:
        return torch.tensor(to_pixels(image))


def levels_apart(a: Tensor, b: Tensor) -> int:
    """The largest difference between two uint8 pictures; 255 if their shapes differ."""
    return int((a.int() - b.int()).abs().max()) if a.shape == b.shape else 255


def grid(images: Tensor, columns: int) -> Tensor:
    """Arrange uint8 (b, c, h, w) in one uint8 picture, with white lines between them, transparent ones in four channels."""
    from torchvision.utils import make_grid  # two seconds, which a single picture does not need

    return make_grid(images, nrow=columns, padding=2, pad_value=0 if images.shape[1] == 4 else 255)


def columns_for(num: int, places: int) -> int:
    """Columns of a grid of `num` pictures: one row per prompt if there are several, else nearly square."""
    if places > 1:
        return num // places
    return max(1, round(num**0.5 + 0.4999))


def user_picture(path: Path, low_res: int, multiple: int, channels: int = 3) -> Tensor:
    """Load a picture and shrink it to what a super-resolution stage was trained to enlarge, uint8 (1, channels, h, w).

    The shorter side becomes `low_res` px, both sides multiples of `multiple`, by THE downsample, after cropping at the centre to
    that aspect ratio.
    Raises ValueError if it is not a picture, or too small.
    """
    pixels = torch.tensor(to_pixels(load_image(path, alpha=channels == 4)))[None]
    return fitted(pixels, user_size(path, (pixels.shape[-2], pixels.shape[-1]), low_res, multiple))


def user_size(path: Path, size: tuple[int, int], low_res: int, multiple: int) -> tuple[int, int]:
    """The size (h, w) to which `user_picture` shrinks one of this size. Raises ValueError if it is too small."""
    h, w = size
    if min(h, w) < low_res:
        raise ValueError(f"--image {path}: {w}x{h} px is too small, the stage takes {low_res} px; use a larger picture")
    return fitted_size(size, low_res, multiple)


def fitted_size(size: tuple[int, int], low_res: int, multiple: int) -> tuple[int, int]:
    """(h, w) of `size`, shrunk so that the shorter side is `low_res` px, rounded down to multiples of `multiple`."""
    h, w = (side * low_res // (min(size) * multiple) * multiple for side in size)
    return h, w


def fitted(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrink uint8 (b, c, h, w) to `size` with THE downsample, after cropping to its aspect ratio; channel by channel, since each
    takes 100 MB for a large picture."""
    window = cut_to_aspect(pixels, size[0] / size[1])
    parts = [to_uint8(downsample(to_float(window[:, [c]]), size)) for c in range(window.shape[1])]
    return torch.cat(parts, 1)


def cut_to_aspect(pixels: Tensor, aspect: float) -> Tensor:
    """Crop to the largest centred window with height / width = aspect."""
    h, w = pixels.shape[-2:]
    new_h, new_w = min(h, round(w * aspect)), min(w, round(h / aspect))
    top, left = (h - new_h) // 2, (w - new_w) // 2
    return pixels[..., top : top + new_h, left : left + new_w]
