"""Bounds on the work that a picture's file may demand, checked before any decoder sees it.

A few KB can demand minutes of work: thousands of scans in a JPEG, chunks in a PNG, Exif entries that all refer to the
same bytes. Each file is walked here the way its decoder would, without decoding; a file beyond a bound is refused in
one line. Pictures from cameras, from the web and from programs that keep their work in a picture's text stay far below.
"""

import re
import struct
import zlib
from contextlib import suppress
from mmap import mmap

from data.avif import MAX_PIECES, exif_of

MAX_SCANS = 100  # in a JPEG, as in libtiff; cameras and the web write 1 to 20
MAX_SCANNED_PIXELS = 1_000_000_000  # in all scans together: 20 scans of the largest picture
FEW_SCANS = 20  # always allowed: the size has a bound of its own
MAX_SEGMENTS = 2_000  # in a JPEG, up to 64 KB each
MAX_TABLES_BYTES = 256 << 10  # quantization tables in a JPEG, which can use four of 129 bytes
MAX_PADDING_BYTES = 256 << 10  # in a JPEG before its first scan, outside all segments
MAX_RESOURCES = 10_000  # Photoshop resources in a JPEG
MAX_CHUNKS = 20_000  # in a PNG or a WebP
MAX_TEXT_CHUNK = 16 << 20  # bytes of one compressed text of a PNG, unpacked
MAX_TEXT_BYTES = 32 << 20  # bytes of all of them, unpacked, colour profiles included
MAX_EXIF_BYTES = 512 << 10
MAX_TAGS = 10_000  # in Exif or in a TIFF
MAX_NUMBERS = 400_000  # in the values of these tags
MAX_PROFILE_TAGS = 100  # as many as Little CMS reads
MAX_BLOCKS = 4_096  # in a GIF before its first frame, up to 255 bytes each
MAX_RUNS_PIXELS, MAX_RUNS_BYTES = 16_000_000, 16 << 20  # in a run-length encoded BMP, which Pillow reads byte by byte

MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in a JPEG: 0xff00 is data, 0xffd0 to 0xffd7 occur within a scan
SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SIZED = SOF | {0xC4, 0xCC, *range(0xDA, 0xF0), 0xFE}  # markers followed by a length
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
SOS, EOI, DQT, APP1, APP2 = 0xDA, 0xD9, 0xDB, 0xE1, 0xE2
WIDTHS = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
}  # bytes by tag type
TEXTS = (1, 2, 7)  # types of plain bytes, which do not count as numbers
POINTERS = (34665, 34853, 40965)  # tags whose value is the offset of more tags
AGAIN = "save it again with another program"
WITHOUT = "save it without"


class TooMuchError(ValueError):
    """A file beyond a bound; the message states what, the amount, the bound and a fix."""


def check_bounds(content: bytes) -> None:
    """Raise TooMuchError if a file is beyond a bound of its format; what is no picture is left to the decoder."""
    if content[:3] == b"\xff\xd8\xff":
        _check_jpeg(content)
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        _check_png(content)
    elif content[:4] == b"RIFF":
        _check_webp(content)
    elif content[:4] == b"GIF8":
        _check_gif(content)
    elif content[:2] == b"BM":
        _check_bmp(content)
    elif content[:2] in (b"II", b"MM"):
        check_tags(content)
    elif content[4:8] == b"ftyp":
        _check_avif(content)


def check_png_head(content: bytes | mmap) -> None:
    """Check the chunks before a PNG's pixels, for callers that read its texts only from there. Raises TooMuchError."""
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        _check_png(content, ends=(b"IDAT", b"IEND", b""))


def check_exif(content: bytes) -> None:
    """Check Exif bytes, as a file or its decoder gives them. Raises TooMuchError."""
    check_length(len(content))
    check_tags(re.sub(rb"^(Exif\0\0)+", b"", content))


def check_length(num_bytes: int) -> None:
    """Check the length of Exif in bytes. Raises TooMuchError."""
    if num_bytes > MAX_EXIF_BYTES:
        raise _beyond("more Exif than is decoded", f"{num_bytes:,} bytes", MAX_EXIF_BYTES, WITHOUT)


def check_tags(content: bytes) -> None:
    """Check the tags of a TIFF, or of Exif, which has its form. Raises TooMuchError.

    Tags and the numbers in them must be few, and must not refer to the same bytes again and again.
    """
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2:3] == b"+"
    header, entry = (struct.Struct(order + form) for form in (("Q", "HHQQ") if is_big else ("H", "HHLL")))
    offsets = [int.from_bytes(content[8:16] if is_big else content[4:8], "little" if order == "<" else "big")]
    visited: set[int] = set()
    tags = numbers = num_bytes = 0
    while offsets:
        offset = offsets.pop()
        if offset in visited or offset + header.size > len(content):
            continue
        visited.add(offset)
        (num,) = header.unpack_from(content, offset)
        offset += header.size
        num = min(num, (len(content) - offset) // entry.size)
        tags += num
        if tags > MAX_TAGS:
            raise _beyond("more tags than are decoded", f"{tags:,}", MAX_TAGS, WITHOUT)
        for tag, kind, count, value in entry.iter_unpack(content[offset : offset + num * entry.size]):
            width = WIDTHS.get(kind, 0)
            if tag in POINTERS:
                offsets.append(value)
            if count * width > (8 if is_big else 4):
                count = min(count, max(0, len(content) - value) // width)
                num_bytes += count * width
                numbers += 0 if kind in TEXTS else count
        if numbers > MAX_NUMBERS:
            raise _beyond("more numbers in tags than are decoded", f"{numbers:,}", MAX_NUMBERS, WITHOUT)
        if num_bytes > 4 * len(content):
            raise _beyond("more bytes in tags than the file has", f"{num_bytes:,}", len(content), WITHOUT)


def _beyond(what: str, got: str, most: int, fix: str) -> TooMuchError:
    return TooMuchError(f"{what}: {got}, at most {most:,}; {fix}")


def _check_jpeg(content: bytes) -> None:
    """Walk the markers; stop after a first scan that holds all components, as its decoder does unless the JPEG is progressive."""
    at, scans, max_scans, sides, components, progressive = 2, 0, MAX_SCANS, "", 0, False
    segments = padding = tables = 0
    exif: list[bytes] = []
    while marker := MARKER.search(content, at):
        kind = content[marker.end() - 1]
        if not scans:
            padding += marker.start() - at
        elif kind == EOI:
            break
        at = marker.end()
        if kind not in SIZED:
            continue
        body = content[at + 2 : at + int.from_bytes(content[at : at + 2])]
        at += 2 + len(body)
        segments += 1
        if kind in SOF and len(body) >= 6:
            height, width, components = struct.unpack_from(">HHB", body, 1)
            sides, progressive = f"{width} x {height} px", progressive or kind in PROGRESSIVE
            max_scans = min(MAX_SCANS, max(FEW_SCANS, MAX_SCANNED_PIXELS // max(1, width * height)))
        elif kind == DQT:
            tables += len(body)
        elif kind == APP1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6:])
        elif kind == APP2 and body.startswith(b"MPF\0"):
            check_tags(body[4:])
        elif kind == SOS:
            scans += 1
        if scans > max_scans:
            fix = "save it as a PNG, or as a JPEG that is not progressive"
            raise _beyond("more scans than are decoded", f"over {max_scans} of {sides}", max_scans, fix)
        if segments > MAX_SEGMENTS:
            raise _beyond("more segments than are decoded", f"over {MAX_SEGMENTS:,}", MAX_SEGMENTS, AGAIN)
        if tables > MAX_TABLES_BYTES:
            raise _beyond("more tables than are decoded", f"{tables:,} bytes", MAX_TABLES_BYTES, AGAIN)
        if padding > MAX_PADDING_BYTES:
            raise _beyond("more padding than is skipped", f"{padding:,} bytes", MAX_PADDING_BYTES, AGAIN)
        if kind == SOS and scans == 1:
            check_exif(b"".join(exif))
            resources = content.count(b"8BIM", 0, at)
            if resources > MAX_RESOURCES:
                raise _beyond("more Photoshop resources than are decoded", f"{resources:,}", MAX_RESOURCES, WITHOUT)
            if not progressive and body[:1] == bytes([components]):
                return


def _check_png(content: bytes | mmap, *, ends: tuple[bytes, ...] = (b"IEND", b"")) -> None:
    at, text_bytes = 8, 0
    for _ in range(MAX_CHUNKS):
        size, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        if kind in ends:
            return
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            text_bytes += _unpacked_bytes(kind, content[at + 8 : at + 8 + size])
            if text_bytes > MAX_TEXT_BYTES:
                raise _beyond("more compressed text than is unpacked", f"{text_bytes:,} bytes", MAX_TEXT_BYTES, WITHOUT)
        at += 12 + size
    raise _beyond("more chunks than are decoded", f"over {MAX_CHUNKS:,}", MAX_CHUNKS, AGAIN)


def _unpacked_bytes(kind: bytes, chunk: bytes) -> int:
    """Size of a chunk's compressed text when unpacked; a damaged one counts as the most that a decoder unpacks."""
    _, _, rest = chunk.partition(b"\0")
    if kind == b"iTXt":
        rest = b"\0" + rest[2:].split(b"\0", 2)[-1] if rest[:1] not in (b"", b"\0") else b""
    with suppress(zlib.error):
        return len(zlib.decompressobj().decompress(rest[1:], MAX_TEXT_CHUNK))
    return MAX_TEXT_CHUNK


def _check_webp(content: bytes) -> None:
    at, end = 12, min(len(content), 8 + int.from_bytes(content[4:8], "little"))
    for _ in range(MAX_CHUNKS):
        if at >= end:
            return
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    raise _beyond("more chunks than are decoded", f"over {MAX_CHUNKS:,}", MAX_CHUNKS, AGAIN)


def _check_gif(content: bytes) -> None:
    """Count the blocks before the first frame."""
    flags = content[10] if len(content) > 10 else 0
    at, blocks = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0), 0
    while at < len(content) and content[at] not in b",;":
        blocks += 1
        at += 1
        if content[at - 1] == ord("!") and at + 1 < len(content):
            is_comment, size = content[at] == 0xFE, content[at + 1]
            at += 2 + size
            has_more = size > 0 or not is_comment  # Pillow goes on after an empty first block of other extensions
            while has_more and at < len(content) and blocks <= MAX_BLOCKS:
                has_more = content[at] > 0
                at += 1 + content[at]
                blocks += 1
        if blocks > MAX_BLOCKS:
            raise _beyond("more blocks before the first frame than are read", f"over {MAX_BLOCKS:,}", MAX_BLOCKS, AGAIN)


def _check_avif(content: bytes) -> None:
    """Check the Exif: its decoder joins the pieces, and Pillow parses it when the file is opened."""
    try:
        items = exif_of(content)
    except ValueError as error:
        raise _beyond("more pieces than are decoded", str(error), MAX_PIECES, AGAIN) from None
    check_length(sum(len(piece) for pieces in items for piece in pieces))
    for pieces in items:
        exif = b"".join(pieces)
        check_exif(exif[4 + int.from_bytes(exif[:4]) :])


def light_profile(icc: bytes) -> bytes:
    """A colour profile without its optional tables of float stages (tags D2B and B2D).

    There may be any number of them, each is applied to tens of thousands of colours, and only profiles made for tests
    have one.
    """
    profile = bytearray(icc)
    num = min(int.from_bytes(icc[128:132]), MAX_PROFILE_TAGS)
    for at in range(132, min(132 + 12 * num, len(icc) - 3), 12):
        if profile[at : at + 3] in (b"D2B", b"B2D"):
            profile[at] = ord("x")  # an unknown tag
    return bytes(profile)


def _check_bmp(content: bytes) -> None:
    size, width, height, compression = struct.unpack("<Iii4xI", content[14:34].ljust(20, b"\0"))
    if size < 40 or compression not in (1, 2):
        return
    pixels = abs(width * height)
    if pixels > MAX_RUNS_PIXELS or len(content) > MAX_RUNS_BYTES:
        amount = f"{width} x {abs(height)} px in {len(content):,} bytes"
        raise _beyond("more of a run-length encoded BMP than is decoded", amount, MAX_RUNS_PIXELS, "save it as a PNG")
