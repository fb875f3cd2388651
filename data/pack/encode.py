"""Encode one picture of a source as the members of a sample. Runs in the packer's worker processes."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from data.captions import check_caption, decode_caption
from data.decode import PACK_FORMATS, Color, decode_image, decode_label, image_size, is_gray
from data.images import center_crop, resize
from data.index.items import DAMAGED, Item
from data.pack.kinds import NO_PLAN, Plan, encoded, first_of
from data.tar import CAPTIONS_MEMBER, MAP_MEMBER, Sample

RESIZES = ("center_crop", "pad", "none")
STORED_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How pictures are stored. size 0 keeps the size of each picture."""

    size: int
    resize: str
    upscale: bool
    background: Color
    alpha: bool
    format: str
    quality: int
    min_side: int = 0
    captions: bool = False  # whether each picture needs one, possibly empty
    skip_uncaptioned: bool = False
    plan: Plan = NO_PLAN  # of several captions


TOO_SMALL, BELOW, UNCAPTIONED = "smaller than --size", "smaller than --min-side", "without a caption"
BY_CHOICE = (TOO_SMALL, BELOW, UNCAPTIONED, DAMAGED)


class LeftOutError(ValueError):
    """A picture left out by choice (one of BY_CHOICE), not because of a fault."""


def encode(item: Item, how: Encoding) -> Sample:
    """The members of one sample, without token features; ValueError states the fault of the picture."""
    content = item.image.read()
    image = decode_image(content, background=how.background, alpha=how.alpha, shrink_to=how.size, formats=PACK_FORMATS)
    height, width = image_size(content)
    if min(height, width) < how.min_side:
        raise LeftOutError(BELOW)
    source_facts = {"source": item.name, "width": width, "height": height}
    sample = {how.format: _encoded(resized(image, how), how)}
    if item.map is not None:
        sample[MAP_MEMBER] = _encoded_map(item.map.read(), (height, width), how)
    sample |= {ext: span.read() for ext, span in item.old.items() if ext != "json"}
    old_facts = _old_facts(item)
    if how.plan.kinds:
        sample |= _captions(_columns(item, old_facts, sample.pop("txt", None)), how.plan)
    elif item.text is not None:
        sample["txt"] = item.text.encode()
    elif item.text_column:
        sample["txt"] = _from_column(old_facts, item.text_column).encode()
    elif "txt" in sample:
        sample["txt"] = decode_caption(sample["txt"]).encode()
    if item.label is not None:
        sample["cls"] = str(item.label).encode()
    if how.captions and "txt" not in sample:
        raise ValueError("no caption (--text-column names their column)")
    if how.skip_uncaptioned and not sample.get("txt"):
        raise LeftOutError(UNCAPTIONED)
    if "cls" in sample:
        decode_label(sample["cls"])
    facts = item.extra | old_facts | _older_size(old_facts, (height, width)) | source_facts
    sample["json"] = json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()
    return sample


def outcome(item: Item, how: Encoding) -> Sample | tuple[str, str]:
    """The sample, or (reason, detail) why there is none: what worker processes send back."""
    try:
        return encode(item, how)
    except LeftOutError as error:
        return str(error), ""
    except (ValueError, OSError) as error:
        reason, _, detail = (error.strerror or str(error) if isinstance(error, OSError) else str(error)).partition(": ")
        return reason, detail


def resized(image: Image.Image, how: Encoding) -> Image.Image:
    """The picture resized as it will be stored; LeftOutError if it is too small."""
    if how.resize == "none" or not how.size:
        return image
    if how.resize == "center_crop":
        image = center_crop(image)
    longest = max(image.size)
    if longest < how.size and not how.upscale:
        raise LeftOutError(TOO_SMALL)
    width, height = (max(1, round(side * how.size / longest)) for side in image.size)
    image = resize(image, (height, width))
    return image if how.resize == "center_crop" else _padded(image, how)


def _padded(image: Image.Image, how: Encoding) -> Image.Image:
    square = Image.new(image.mode, (how.size, how.size), (0, 0, 0, 0) if how.alpha else how.background)
    square.paste(image, ((how.size - image.width) // 2, (how.size - image.height) // 2))
    return square


def _encoded(image: Image.Image, how: Encoding) -> bytes:
    out = io.BytesIO()
    options = {"compress_level": 6} if how.format == "png" else {"quality": how.quality}
    if how.format == "webp" and how.quality == 100:
        options = {
            "lossless": True,
            "quality": 75,
            "method": 4,
        }  # effort, not loss: 1 % larger than the most, 20 times as fast
    image.save(out, STORED_FORMATS[how.format], **options)
    return out.getvalue()


def _encoded_map(content: bytes, size: tuple[int, int], how: Encoding) -> bytes:
    """The map of a picture of (height, width) `size`, resized like it, as PNG. A gray one stays gray."""
    image = decode_image(content, formats=PACK_FORMATS)
    if (image.height, image.width) != size:
        raise ValueError(f"its map is {image.width} x {image.height} px, the picture {size[1]} x {size[0]}")
    gray = is_gray(content)
    image = resized(image, replace(how, alpha=False, background=(0, 0, 0)))
    out = io.BytesIO()
    (image.convert("L") if gray else image.convert("RGB")).save(out, "PNG", compress_level=6)
    return out.getvalue()


def _columns(item: Item, facts: dict, text: bytes | None) -> Mapping[str, Any]:
    """What the columns of several captions hold: as listed, or in the members of a tar, its `.txt` being the column txt."""
    if item.columns is not None:
        return item.columns
    return facts if text is None else {"txt": decode_caption(text)} | facts


def _captions(columns: Mapping[str, Any], plan: Plan) -> Sample:
    captions = plan.texts(columns)
    return {"txt": first_of(captions).encode(), CAPTIONS_MEMBER: encoded(captions, {})}


def _from_column(facts: dict, column: str) -> str:
    text = facts.get(column)
    if not isinstance(text, str | None):
        raise ValueError("caption is no text")
    return check_caption(text or "")


def _older_size(facts: dict, size: tuple[int, int]) -> dict:
    """The size before an earlier packing, as img2dataset names it, where facts of a tar state another one than the picture's own
    (height, width): packing again must not forget how large a picture was."""
    older = (facts.get("height"), facts.get("width"))
    if "original_width" in facts or older == size or not all(type(side) is int and side > 0 for side in older):
        return {}
    return {"original_height": older[0], "original_width": older[1]}


def _old_facts(item: Item) -> dict:
    if "json" not in item.old:
        return {}
    try:
        facts = json.loads(item.old["json"].read())
    except (ValueError, RecursionError) as error:
        raise ValueError("its .json member is broken") from error
    return facts if isinstance(facts, dict) else {"json": facts}
