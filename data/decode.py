"""Decode untrusted bytes to an RGB picture, token features or a label. Nothing here can execute anything.

Every fault of the content is a `ValueError`. Pictures: only the formats named, at most MAX_PIXELS, first frame, turned
upright by EXIF, colours converted from the embedded profile (or CMYK, grey, palette, 16 bit) to 8-bit sRGB,
transparency laid on a background.
"""

import ast
import io
import json
import stat
import struct
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from data.bounds import MAX_TEXT_CHUNK, TooMuchError, check_bounds, check_exif, check_length, light_profile
from data.tar import MEMBER_LIMITS

MAX_PIXELS = 50_000_000  # 150 MB as RGB; a bomb of a few KB can claim more
FORMATS = ("JPEG", "PNG", "WEBP")
PACK_FORMATS = (*FORMATS, "GIF", "BMP", "TIFF", "AVIF")
MAX_CLASSES = 100_000
TURNED = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # where a PNG can state its orientation
# Pillow's default, 1 MiB, refuses pictures whose program keeps its whole graph in a text. All texts of a PNG together are bounded
# by Pillow's MAX_TEXT_MEMORY, 64 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT_CHUNK

Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)


def decode_image(
    content: bytes,
    *,
    background: Color = WHITE,
    alpha: bool = False,
    shrink_to: int = 0,
    formats: tuple[str, ...] = FORMATS,
) -> Image.Image:
    """The picture in `content` as upright 8-bit sRGB: RGB on `background`, or straight RGBA if `alpha`.

    shrink_to > 0 allows a JPEG to be decoded at a smaller scale with sides at least twice `shrink_to`, for pictures
    that will be shrunk anyway.
    """
    image = _opened(content, formats)
    _check_pixels(image)
    try:
        if shrink_to and image.format == "JPEG":
            image.draft(None, (2 * shrink_to, 2 * shrink_to))  # type: ignore[arg-type]
        image.load()
        _check_exif(image)
        return _to_srgb(image, background, alpha)
    except TooMuchError:
        raise
    except Exception as error:
        raise ValueError(f"broken {image.format} picture: {_short(error)}") from error


def load_image(path: str | Path, background: Color = WHITE, *, alpha: bool = False) -> Image.Image:
    """Decode a user's own picture from a file; errors name the file."""
    path = Path(path)
    content = read_file(path)
    try:
        return decode_image(content, background=background, alpha=alpha, formats=PACK_FORMATS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_file(path: Path, most: int = MEMBER_LIMITS["png"]) -> bytes:
    """Contents of a user's file. Raises ValueError if it is no regular file or has more than `most` bytes, and OSError."""
    check_file(path, most)
    with path.open("rb") as file:
        content = file.read(most + 1)  # it may have grown since
    if len(content) > most:
        raise ValueError(f"{path}: larger than {most >> 20} MiB; save it smaller")
    return content


def check_file(path: Path, most: int = MEMBER_LIMITS["png"]) -> None:
    """Raise ValueError unless a path is a regular file (a pipe or a device may never end) of at most `most` bytes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a plain file; name one")
    if status.st_size > most:
        raise ValueError(f"{path}: larger than {most >> 20} MiB; save it smaller")


def image_size(content: bytes, formats: tuple[str, ...] = PACK_FORMATS) -> tuple[int, int]:
    """Upright (height, width) from the header; pixels are decoded only for a PNG whose orientation may follow them."""
    image = _opened(content, formats)
    _check_pixels(image)
    try:
        if image.format == "PNG" and "exif" not in image.info and any(kind in content for kind in TURNED):
            image.load()  # Exif may follow the pixels
        _check_exif(image)
        exif = Image.Image.getexif(image)  # the method of a PNG would decode the picture
        orientation = exif.get(ExifTags.Base.Orientation)
    except TooMuchError:
        raise
    except Exception as error:
        raise ValueError(f"broken {image.format} picture: {_short(error)}") from error
    return (image.width, image.height) if orientation in (5, 6, 7, 8) else (image.height, image.width)


def is_gray(content: bytes, formats: tuple[str, ...] = PACK_FORMATS) -> bool:
    """Whether a picture is gray by its header, not by its pixels."""
    return _opened(content, formats).mode in ("1", "L", "LA", "I", "I;16")


def _opened(content: bytes, formats: tuple[str, ...]) -> ImageFile:
    check_bounds(content)
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except Exception as error:  # whatever a decoder raises about bad bytes is one kind of fault
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {_short(error)}"
        raise ValueError(f"no {', '.join(formats)} picture{reason}") from error


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"more pixels than are decoded: {image.width} x {image.height}, at most {MAX_PIXELS:,}")


def _check_exif(image: Image.Image) -> None:
    """Check Exif before Pillow parses it."""
    exif, text = image.info.get("exif"), image.info.get("Raw profile type exif")
    if exif is None and text:
        check_length(len(text) // 2)
        exif = bytes.fromhex("".join(text.split("\n")[3:]))  # as Pillow reads it
    check_exif(exif or b"")


def decode_label(content: bytes) -> int:
    """The class number in a `.cls` member: decimal digits, below MAX_CLASSES."""
    text = content.strip()
    if not text.isdigit() or len(text) > 9 or int(text) >= MAX_CLASSES:
        raise ValueError(f".cls member is no class number below {MAX_CLASSES:,}: it holds {content[:20]!r}")
    return int(text)


def decode_captions(content: bytes) -> list[list[str]]:
    """The captions in a `captions.json` member: for each kind of caption the texts among which one is drawn, [] if it has none."""
    captions = _caption_fields(content).get("captions")
    if not isinstance(captions, list) or not all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in captions
    ):
        raise ValueError("captions.json has no lists of texts")
    return captions


def decode_features(content: bytes, features: bytes, dim: int) -> dict[str, np.ndarray]:
    """Token features (tokens, dim) float16 by text: what `captions.npy` holds one after the other, as `captions.json` says."""
    lengths = _caption_fields(content).get("features")
    if not isinstance(lengths, dict) or not all(type(num) is int and num > 0 for num in lengths.values()):
        raise ValueError("captions.json does not say which features captions.npy holds")
    tokens = decode_tokens(features, dim, least=0)
    if len(tokens) != sum(lengths.values()):
        raise ValueError(f"captions.npy has {len(tokens)} tokens, captions.json says {sum(lengths.values())}")
    ends = accumulate(lengths.values())
    return {text: tokens[end - num : end] for (text, num), end in zip(lengths.items(), ends, strict=True)}


def _caption_fields(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("captions.json is no JSON") from error
    if not isinstance(fields, dict):
        raise ValueError("captions.json is no JSON object")
    return fields


def decode_tokens(content: bytes, dim: int, least: int = 1) -> np.ndarray:
    """Token features (tokens, dim) float16 of a `.npy` member, `least` tokens or more.

    Header and length must agree, object arrays are refused.
    """
    length, shape = _npy_header(content[: min(len(content), 256)])
    if len(shape) != 2 or shape[1] != dim or shape[0] < least or len(content) - length != 2 * shape[0] * dim:
        raise ValueError(f"text features of shape {shape} in {len(content)} bytes; expected (tokens, {dim}) float16")
    return np.frombuffer(content, dtype="<f2", offset=length).reshape(shape)


def _npy_header(head: bytes) -> tuple[int, tuple[int, ...]]:
    if head[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("text features are no .npy file of version 1")
    length = 10 + struct.unpack("<H", head[8:10])[0]
    return length, _npy_shape(head[10:length])


@lru_cache(maxsize=256)
def _npy_shape(header: bytes) -> tuple[int, ...]:
    try:
        fields = ast.literal_eval(header.decode("latin1").strip())
        shape = tuple(int(n) for n in fields["shape"])
        is_supported = fields["descr"] == "<f2" and fields["fortran_order"] is False
    except Exception as error:
        raise ValueError("text features have a broken .npy header") from error
    if not is_supported:
        raise ValueError(f"text features are {fields['descr']!r}; expected float16 in C order")
    return shape


def _to_srgb(image: Image.Image, background: Color, keeps_alpha: bool) -> Image.Image:
    if image.mode == ("RGBA" if keeps_alpha else "RGB") and not image.info:
        return image  # what our own packer writes
    icc = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    image = _to_8_bit(image)
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        rgb = _through_profile(image.convert("RGB"), icc)
        if keeps_alpha:
            rgb.putalpha(alpha)
            return rgb
        opaque = Image.new("RGB", image.size, background)
        opaque.paste(rgb, mask=alpha)
        return opaque
    opaque = _through_profile(image.convert("RGB") if image.mode in ("P", "1") else image, icc)
    return opaque.convert("RGBA") if keeps_alpha else opaque


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Round 16-bit grey (Pillow's modes I and I;16) to 8 bit: `convert` would clip it to white. Deeper modes are a ValueError."""
    if image.mode == "F":
        raise ValueError("numbers with a fraction are no colours; save it with 8 or 16 bits a channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("32 bits a channel; save it with 8 or 16")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    return image


def _through_profile(image: Image.Image, icc: bytes | None) -> Image.Image:
    if icc and image.mode in ("RGB", "CMYK", "L"):
        try:
            transform = _transform(icc, image.mode)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            transform = None  # a profile that is broken or of another mode says nothing about the colours
        if transform is not None:
            return transform.apply(image)
    return image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(light_profile(icc)))
    if mode == "RGB" and "srgb" in ImageCms.getProfileDescription(profile).lower():
        return None
    return ImageCms.buildTransform(profile, _srgb(), mode, "RGB")


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _short(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]
