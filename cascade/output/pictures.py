"""Pictures to files, one by one or as a grid, PNG with the settings that made them; and a user's picture to a tensor.

Files are written under another name and renamed, so an interrupt leaves none half-written.
"""

import json
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from data.batch import to_float, to_uint8
from data.bounds import TooMuchError, check_png_head
from data.decode import check_file, load_image, to_array
from data.resize import downsample

METADATA_KEY = "cascade"
MAX_PNG = 4 << 30  # bytes of a picture of ours; only its head is read for the metadata


def save_png(image: Tensor, path: Path, metadata: dict[str, Any]) -> None:
    """uint8 (c, h, w) to path; metadata as JSON in the PNG's text chunk "cascade"."""
    info = PngInfo()
    info.add_text(METADATA_KEY, json.dumps(metadata))
    part = path.with_name(
        f".{os.getpid()}.{threading.get_ident()}.part"
    )  # short: a name may be as long as names can be
    try:
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(part, format="PNG", pnginfo=info)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_metadata(path: Path) -> dict[str, Any]:
    """What `save_png` wrote. Raises ValueError where there is none, or a damaged one, OSError."""
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
    except Exception as error:  # whatever a decoder raises about foreign bytes is one kind of fault
        if isinstance(error, OSError) and error.errno:  # of the disk
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
    """Raises ValueError for what is no JSON object; `path` is for the message."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise ValueError(f"{path}: damaged metadata; not what sample.py writes about a picture")
    return said


def read_png(path: Path) -> Tensor:
    """uint8 (c, h, w) that `save_png` wrote."""
    with Image.open(path) as image:
        pixels = torch.tensor(np.atleast_3d(np.asarray(image)))
    return pixels.permute(2, 0, 1)


def levels_apart(a: Tensor, b: Tensor) -> int:
    """The largest difference of two uint8 pictures; 255 where their sizes differ."""
    return int((a.int() - b.int()).abs().max()) if a.shape == b.shape else 255


def grid(images: Tensor, columns: int) -> Tensor:
    """uint8 (b, c, h, w) to one uint8 picture, white lines between."""
    from torchvision.utils import make_grid  # takes two seconds, which a single picture need not wait

    return make_grid(images, nrow=columns, padding=2, pad_value=255)


def columns_for(num: int, places: int) -> int:
    """Columns of a grid: one row a prompt where there are several, else as square as it gets."""
    if places > 1:
        return num // places
    return max(1, round(num**0.5 + 0.4999))


def user_picture(path: Path, low_res: int, multiple: int) -> Tensor:
    """A user's picture (1, 3, h, w) uint8 made as small as a super-resolution stage was trained to take it: the shorter side is
    `low_res` px, both sides multiples of `multiple`. Larger pictures go through THE downsample, cut at the centre by less than
    `multiple`.

    Raises ValueError for what is no picture and for one that is too small.
    """
    pixels = torch.tensor(to_array(load_image(path)))[None]
    return fitted(pixels, user_size(path, (pixels.shape[-2], pixels.shape[-1]), low_res, multiple))


def user_size(path: Path, size: tuple[int, int], low_res: int, multiple: int) -> tuple[int, int]:
    """The size (h, w) that `user_picture` makes of one of this size. Raises ValueError for one that is too small."""
    h, w = size
    if min(h, w) < low_res:
        raise ValueError(f"--image {path}: {w}x{h} px is too small, the stage takes {low_res} px; use a larger picture")
    return fitted_size(size, low_res, multiple)


def fitted_size(size: tuple[int, int], low_res: int, multiple: int) -> tuple[int, int]:
    """(h, w) of `size` made so small that the shorter side is `low_res` px, both multiples of `multiple`."""
    h, w = (side * low_res // (min(size) * multiple) * multiple for side in size)
    return h, w


def fitted(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (b, c, ...) made as small as `size`: the largest window of its aspect through THE downsample, channel by channel, since
    each is 100 MB of a large picture."""
    window = cut_to_aspect(pixels, size[0] / size[1])
    parts = [to_uint8(downsample(to_float(window[:, [c]]), size)) for c in range(window.shape[1])]
    return torch.cat(parts, 1)


def cut_to_aspect(pixels: Tensor, aspect: float) -> Tensor:
    """The largest centred window with height / width = aspect."""
    h, w = pixels.shape[-2:]
    new_h, new_w = min(h, round(w * aspect)), min(w, round(h / aspect))
    top, left = (h - new_h) // 2, (w - new_w) // 2
    return pixels[..., top : top + new_h, left : left + new_w]
