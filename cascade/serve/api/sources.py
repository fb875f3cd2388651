"""Pictures of clients that are painted over, and their masks: base64 in, a `Source` out; and their maps."""

import base64
import binascii
from collections.abc import Sequence

import torch
from torch import Tensor

from cascade.conditions import Conditions
from cascade.link import Link, side_multiple
from cascade.output.maps import map_from
from cascade.output.pictures import fitted, fitted_size
from cascade.output.sources import fitted_mask, light
from cascade.source import Source, check_marked
from data.alpha import to_pixels
from data.decode import FORMATS, decode_image, image_size

from ..http.limits import Limits, Refused


def source_from(
    image: str, mask: str | None, links: Sequence[Link], limits: Limits, *, fit: bool, shown: "Shown | None" = None
) -> Source:
    """The source in a body: a picture of the size of the last of `links`, and its mask of the same size, white where to paint.

    fit: shrink both until the shorter side is that stage's own. Raises ValueError, Refused.
    """
    link = links[-1]
    pixels, size = decoded(image, "image", link.contract.channels, limits), None
    side = link.contract.resolution
    h, w = pixels.shape[-2:]
    if fit:
        if min(h, w) < side:
            raise ValueError(f"image: {w}x{h} px, stage {link.name} gives {side} px; send a larger one")
        size = fitted_size((h, w), side, side_multiple(list(links), side))
    elif max(h, w) > limits.scale * side:
        raise ValueError(f"image: {w}x{h} px; at most {limits.scale * side} px a side are allowed")
    painted = None if mask is None else mask_from(mask, (h, w), limits)
    if size is not None:
        pixels = fitted(pixels, size)
        painted = None if painted is None else fitted_mask(painted, size, "mask")
    prompts, labels = shown or ((), ())
    return Source(images=pixels, mask=painted, inverted=shown is not None, prompts=prompts, labels=labels)


Shown = tuple[tuple[str, ...], tuple[int, ...]]
"""What an inverted picture shows: prompts and labels."""


def mask_from(text: str, size: tuple[int, int], limits: Limits) -> Tensor:
    """A mask in base64, bool (1, 1, h, w): True where it is light. Raises ValueError, Refused."""
    painted = light(decoded(text, "mask", 3, limits))
    (h, w), (mask_h, mask_w) = size, painted.shape[-2:]
    if (h, w) != (mask_h, mask_w):
        raise ValueError(f"mask: {mask_w}x{mask_h} px, its picture has {w}x{h} px; send one of the same size")
    check_marked(painted, "mask")
    return painted


def map_of(text: str, conditions: Conditions, limits: Limits) -> Tensor:
    """A map in base64, uint8 (1, c, h, w), with the channels that the cascade takes. Raises ValueError, Refused."""
    content = unpack(text, "map")
    check_pixels(content, "map", limits)
    return map_from(content, conditions, "map", FORMATS)


def check_pixels(content: bytes, what: str, limits: Limits) -> None:
    """Raise Refused for a picture of too many pixels, ValueError for none, by its header."""
    try:
        h, w = image_size(content, FORMATS)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if h * w > limits.upload_pixels:
        raise Refused(413, "too_many_pixels", f"{what}: {w}x{h} px; at most {limits.upload_pixels:,} pixels")


def decoded(text: str, what: str, channels: int, limits: Limits) -> Tensor:
    """A picture in base64, uint8 (1, channels, h, w), whose size is looked at before it is decoded. Raises ValueError, Refused."""
    content = unpack(text, what)
    check_pixels(content, what, limits)
    try:
        return torch.tensor(to_pixels(decode_image(content, alpha=channels == 4)))[None]
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def with_strength(settings: dict[str, dict], links: Sequence[Link], strength: float | None) -> dict[str, dict]:
    """Settings by stage with this strength where they say none; None: unchanged."""
    if strength is None:
        return settings
    return settings | {link.name: {"strength": strength} | settings.get(link.name, {}) for link in links}


def unpack(text: str, what: str = "image") -> bytes:
    """Decode base64, also as a data: URL. what: begins the message. Raises ValueError."""
    head, comma, tail = text.partition(",")
    if "://" in text[:32] or (comma and not (head.startswith("data:image/") and head.endswith(";base64"))):
        raise ValueError(f"{what}: send the picture itself as base64; addresses are not fetched")
    lines = (tail if comma else text).split()  # the command base64 breaks lines
    try:
        return base64.b64decode("".join(lines), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what}: not base64; send the bytes of a PNG, JPEG or WebP file in base64") from None
