"""What a folder of pictures holds: which can be read, how large they are, which occur twice, what describes them.

Every picture is decoded once, small. Nothing in the folder is changed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from data.alpha import to_pixels
from data.cli import progress
from data.decode import PACK_FORMATS, decode_image, image_size
from data.images import center_crop, resize
from data.index.items import Choices, Item, Source
from data.index.tree import look
from data.pack.sources import find_kind, list_source

THUMBNAIL = 16  # px
SAME = 2.0  # levels of 255, root-mean-square at 16 px: one picture saved or scaled anew
NEAR = 6.0  # the same or hardly different: frames of a film, a retouched copy
COMPARED = 12_000  # most pictures that are compared in pairs
OPAQUE = 250


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A picture that can be read: upright size (h, w) in px; whether EXIF turns it, whether parts of it are transparent.

    thumbnail: uint8 (4, 16, 16), premultiplied, of the central square. digest: of the file's bytes.
    """

    item: Item
    size: tuple[int, int]
    turned: bool
    transparent: bool
    thumbnail: np.ndarray
    digest: str

    @property
    def short(self) -> int:
        """The short side, px."""
        return min(self.size)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A folder's pictures: `kept`, and by reason the names of those that are `dropped`; `near`: how many resemble another one.

    near is None if there are too many to compare.
    """

    source: Source
    kept: list[Seen]
    dropped: dict[str, list[str]]
    near: int | None

    @cached_property
    def captions(self) -> list[str]:
        """The captions of the pictures that are kept, "" where there is none."""
        return [seen.item.text or "" for seen in self.kept]

    @cached_property
    def classes(self) -> Counter[str]:
        """How many kept pictures each class has; empty without classes."""
        names = self.source.classes or []
        return Counter(names[seen.item.label] for seen in self.kept if seen.item.label is not None)

    def thumbnails(self) -> Tensor:
        """The small pictures, uint8 (n, 4, 16, 16), premultiplied."""
        return torch.from_numpy(np.stack([seen.thumbnail for seen in self.kept]))

    def line(self) -> str:
        """All of it in one line: read as, kept, dropped by reason, turned, near duplicates."""
        dropped = ", ".join(f"{len(names):,} {reason} ({names[0]})" for reason, names in self.dropped.items())
        turned = sum(seen.turned for seen in self.kept)
        parts = [
            f"read as {self.source.read_as}",
            f"{len(self.kept):,} pictures kept",
            f"dropped: {dropped}" if dropped else "none dropped",
            *([f"{turned:,} turned upright by EXIF"] if turned else []),
            f"{self.near:,} much like another one" if self.near is not None else "too many to look for near duplicates",
        ]
        return "; ".join(parts)


def survey(folder: Path, choices: Choices) -> Survey:
    """Look at every picture of a folder. Raises ValueError if it is none, or if its kind cannot be told."""
    source = listed(folder, choices)
    dropped: dict[str, list[str]] = {}
    for reason, name in source.bad:
        dropped.setdefault(reason, []).append(name)
    seen = list(_read(progress(source.items, len(source.items), "looking"), dropped))
    seen = _without_copies(seen, dropped)
    near = None
    if len(seen) <= COMPARED:
        seen, near = _without_thumbnails(seen, dropped)
    return Survey(source=source, kept=seen, dropped=dropped, near=near)


def listed(folder: Path, choices: Choices) -> Source:
    """The folder's pictures as data.pack lists them. Raises ValueError for a folder without pictures, or of shards."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder; name one of pictures")
    tree = look(folder)
    kind = find_kind(tree, choices)
    if kind == "tars":
        raise ValueError(f"{folder}: shards, not pictures; train on them with train.py or cascade.launch")
    return list_source(tree, kind, choices)


def listing_sha256(source: Source) -> str:
    """What identifies a folder's content without reading its pictures: names, sizes, captions, classes."""
    rows = [[item.name, item.image.size, item.text, item.label] for item in source.items]
    return hashlib.sha256(json.dumps([source.classes, rows]).encode()).hexdigest()


def _read(items: Iterable[Item], dropped: dict[str, list[str]]) -> Iterator[Seen]:
    for item in items:
        try:
            yield _seen(item)
        except (ValueError, OSError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            dropped.setdefault(reason.partition(": ")[0], []).append(item.name)


def _seen(item: Item) -> Seen:
    content = item.image.read()
    height, width = image_size(content)
    image = decode_image(content, alpha=True, shrink_to=THUMBNAIL, formats=PACK_FORMATS)
    thumbnail = resize(center_crop(image), (THUMBNAIL, THUMBNAIL))
    return Seen(
        item=item,
        size=(height, width),
        turned=_is_turned(item),
        transparent=bool((np.asarray(image.getchannel("A")) < OPAQUE).any()),
        thumbnail=to_pixels(thumbnail),
        digest=hashlib.sha256(content).hexdigest(),
    )


def _is_turned(item: Item) -> bool:
    """Whether EXIF in the head of a JPEG says another orientation than upright."""
    with item.image.path.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return False
        file.seek(0)
        with Image.open(file) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)


def _without_copies(seen: list[Seen], dropped: dict[str, list[str]]) -> list[Seen]:
    """Without files whose bytes, caption and class another one has, too."""
    first: dict[tuple[str, str | None, int | None], Seen] = {}
    for each in seen:
        key = (each.digest, each.item.text, each.item.label)
        if key in first:
            dropped.setdefault("exact copies", []).append(each.item.name)
        else:
            first[key] = each
    return list(first.values())


def _without_thumbnails(seen: list[Seen], dropped: dict[str, list[str]]) -> tuple[list[Seen], int]:
    """Without pictures that lie there larger, too; and how many of the others are much like another one."""
    if len(seen) < 2:
        return seen, 0
    flat = torch.from_numpy(np.stack([each.thumbnail for each in seen])).flatten(1).float()
    limit = flat.shape[1] ** 0.5
    smaller: set[int] = set()
    near: set[int] = set()
    for start in range(0, len(seen), 256):
        distances = torch.cdist(flat[start : start + 256], flat) / limit
        for row, other in (distances < NEAR).nonzero().tolist():
            a, b = seen[start + row], seen[other]
            if start + row == other:
                continue
            if distances[row, other] < SAME and a.size != b.size and _like_shapes(a, b):
                smaller.add(start + row if a.short < b.short else other)
            else:
                near |= {start + row, other}
    for k in sorted(smaller):
        dropped.setdefault("there larger, too", []).append(seen[k].item.name)
    return [each for k, each in enumerate(seen) if k not in smaller], len(near - smaller)


def _like_shapes(a: Seen, b: Seen) -> bool:
    """Whether two pictures have one ratio of sides, up to the rounding of a small one."""
    ratios = [each.size[0] / each.size[1] for each in (a, b)]
    return abs(ratios[0] / ratios[1] - 1) < 2 / min(a.short, b.short)
