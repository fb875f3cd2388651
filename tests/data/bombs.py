"""Small files that ask for much work, each legal to the letter or nearly so; and pictures that only look like them."""

import io
import random
import struct
import zlib
from itertools import pairwise

from PIL import Image, ImageCms, PngImagePlugin

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
ORIENTATION = 0x0112
NAME = "sRGB".encode("utf-16-be")


def saved(image: Image.Image, format: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def photo(width: int = 256, height: int = 192, mode: str = "RGB") -> Image.Image:
    """Noise with some structure."""
    return Image.effect_noise((width // 8, height // 8), 60).resize((width, height)).convert(mode)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(between: bytes = b"", **options) -> bytes:
    """A JPEG with these bytes before all its own segments."""
    content = saved(photo(), "JPEG", **options)
    return SOI + between + content[2:]


def scans(num: int, size: tuple[int, int] = (2000, 1500)) -> bytes:
    """A progressive JPEG whose last scan comes `num` times more: 14 bytes or so ask for a pass over all pixels."""
    content = saved(Image.new("L", size, 128), "JPEG", progressive=True)
    at = content.rindex(b"\xff\xda")
    return content[:-2] + content[at:-2] * num + EOI


def sequential_scans(num: int) -> bytes:
    """A baseline JPEG of three components in scans of their own, the first `num` times more, without data."""
    grey = saved(Image.new("L", (2000, 1500), 128), "JPEG")
    frame = grey.index(b"\xff\xc0")
    head = segment(0xC0, struct.pack(">BHHB", 8, 1500, 2000, 3) + b"".join(bytes([k, 0x11, 0]) for k in (1, 2, 3)))
    at = grey.index(b"\xff\xda")
    before = grey[:frame] + head + grey[frame + 13 : at]
    scan = grey[at:-2]
    first, second, third = (scan[:5] + bytes([k]) + scan[6:] for k in (1, 2, 3))
    return before + first + first[:10] * num + second + third + EOI


def tags(entries: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """A TIFF's directory of (tag, type, count, value or place), then `tail`."""
    rows = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + rows + bytes(4) + tail


def tags_of_the_same(num: int, num_bytes: int) -> bytes:
    """Each of `num` tags names all of the same bytes."""
    return tags([(1000 + k, 7, num_bytes, 0) for k in range(num)], bytes(num_bytes))


def turned_with_fractions(num: int) -> bytes:
    """Exif that is written anew when the picture is turned, number by number."""
    rows = [(ORIENTATION, 3, 1, 6), (0x9999, 5, num, 8 + 2 + 2 * 12 + 4)]
    return tags(rows, struct.pack("<LL", 123_456_789, 987_654_321) * num)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(between: bytes = b"", behind: bytes = b"", size: tuple[int, int] = (64, 64)) -> bytes:
    """A PNG with chunks before and behind its pixels."""
    content = saved(Image.new("RGB", size, (1, 2, 3)))
    data, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    return content[:data] + between + content[data:end] + behind + content[end:]


def damaged_text(kind: bytes = b"zTXt") -> bytes:
    """15 MB when unpacked, and what counts them does not see them, for the end is wrong."""
    packer = zlib.compressobj(9)
    packed = packer.compress(bytes(15 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) + b"\xff"  # no kind of a block
    head = b"x\0\0" if kind != b"iTXt" else b"x\0\1\0\0\0"
    return chunk(kind, head + packed)


def webp(more: bytes) -> bytes:
    """A WebP with more chunks."""
    content = saved(Image.new("RGB", (64, 64)), "WEBP", exif=b"Exif\0\0" + tags([(ORIENTATION, 3, 1, 1)])) + more
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


def riff(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def gif(between: bytes) -> bytes:
    content = saved(photo(mode="L"), "GIF")
    at = content.index(b",", 13 + 768)
    return content[:at] + between + content[at:]


def bmp_in_runs(side: int) -> bytes:
    """Each row has one pixel, then its end: the rest is filled one by one."""
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    palette = bytes(range(256)) * 4
    at = 14 + len(head) + len(palette)
    return struct.pack("<2sIII", b"BM", at, 0, at) + head + palette + b"\1\1\0\0" * side + b"\0\1"


def big_tiff(num: int) -> bytes:
    """A BigTIFF of `num` tags."""
    row = struct.pack("<HHQQ", 1000, 4, 1, 1)
    return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, num) + row * num


def refused() -> dict[str, tuple[bytes, str]]:
    """Name: file, and the beginning of what is said about it. Of the formats that a server takes."""
    comment, empty = segment(0xFE, b""), chunk(b"IDAT", b"")
    exif = segment(0xE1, b"Exif\0\0" + tags_of_the_same(4000, 12_000))
    resource = b"8BIM\4\0\0\0\0\0\0\0"
    return {
        "10,000 scans": (scans(10_000), "more scans than are decoded: over 100 of 2000 x 1500 px, at most 100"),
        "1,000 scans of a large picture": (scans(1000, (5000, 5000)), "more scans than are decoded: over 40 of"),
        "10,000 scans of a baseline JPEG": (sequential_scans(10_000), "more scans than are decoded"),
        "100,000 segments": (jpeg(comment * 100_000), "more segments than are decoded"),
        "quantization tables": (jpeg(segment(0xDB, (b"\0" + bytes(range(1, 65))) * 1000) * 150), "more tables than"),
        "padding": (jpeg(b"\xff" * 8_000_000), "more padding than is skipped"),
        "junk": (jpeg(comment + b"\0" * 8_000_000), "more padding than is skipped"),
        "junk after an early end": (jpeg(EOI + b"\0" * 8_000_000), "more padding than is skipped"),
        "tags of the same bytes": (jpeg(exif), "more bytes in tags than the file has"),
        "tags of many segments": (jpeg(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 150), "more Exif than is decoded"),
        "a directory of pictures": (jpeg(segment(0xE2, b"MPF\0" + tags_of_the_same(4000, 12_000))), "more bytes in tags"),
        "Photoshop's resources": (jpeg(segment(0xED, b"Photoshop 3.0\0" + resource * 5000) * 150), "more Photoshop"),
        "empty chunks of pixels": (png(empty * 500_000), "more chunks than are decoded"),
        "chunks": (png(chunk(b"tEXt", b"a\0") * 500_000), "more chunks than are decoded"),
        "chunks behind the pixels": (png(b"", chunk(b"tEXt", b"a\0") * 500_000), "more chunks than are decoded"),
        "damaged texts": (png(damaged_text() * 500), "more compressed text than is unpacked"),
        "damaged international texts": (png(b"", damaged_text(b"iTXt") * 500), "more compressed text than is unpacked"),
        "profiles": (png(chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(16 << 20), 9)) * 500), "more compressed text"),
        "fractions to write anew, PNG": (
            png(chunk(b"eXIf", turned_with_fractions(1_000_000))),
            "more Exif than is decoded: 8,000,044 bytes, at most 524,288; save it without",
        ),
        "fractions behind the pixels": (png(b"", chunk(b"eXIf", turned_with_fractions(1_000_000))), "more Exif"),
        "fractions in hexadecimal": (
            png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n8\n" + turned_with_fractions(500_000).hex().encode())),
            "more Exif",
        ),
        "fractions to write anew, WebP": (
            saved(Image.new("RGB", (64, 64)), "WEBP", exif=b"Exif\0\0" + turned_with_fractions(1_000_000)),
            "more Exif",
        ),
        "chunks of a WebP": (webp(riff(b"JUNK", b"") * 1_000_000), "more chunks than are decoded"),
    }  # fmt: skip


def refused_when_packed() -> dict[str, tuple[bytes, str]]:
    """The same of formats that only the packer and sample.py read."""
    block = b"!\xfe\1a"
    numbers = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 5, 1_000_000, 100), (262, 3, 1, 1)]
    return {
        "comments of a GIF": (gif(block + b"\1a" * 2_000_000 + b"\0"), "more blocks before the first frame"),
        "extensions of a GIF": (gif(b"!\xf9\0\0" * 1_000_000), "more blocks before the first frame"),
        "a BMP in runs": (bmp_in_runs(7000), "more of a run-length encoded BMP than is decoded: 7000 x 7000 px"),
        "tags of a BigTIFF": (big_tiff(1_000_000), "more tags than are decoded: 1,000,000, at most 10,000"),
        "Exif of an AVIF": (avif(tags([], bytes(600_000))), "more Exif than is decoded: "),
        "tags of an AVIF": (avif(tags_of_the_same(4000, 12_000)), "more bytes in tags than the file has"),
        "pieces of an AVIF": (avif_in_pieces(30_000), "more pieces than are decoded: over 20,000"),
        "numbers of a TIFF": (tags(numbers, bytes(8_000_200)), "more numbers in tags than are decoded"),
    }


def avif(exif: bytes) -> bytes:
    """Pillow writes no Exif that it cannot read, so it writes other bytes, as many."""
    plain = tags([])
    plain += b"x" * (len(exif) - len(plain))
    return saved(photo(), "AVIF", exif=plain).replace(plain, exif)


def avif_in_pieces(num: int) -> bytes:
    """Of one item that is Exif, all of them the same bytes."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), kind) + body

    named = box(
        b"iinf", bytes(4) + struct.pack(">H", 1) + box(b"infe", b"\2\0\0\0" + struct.pack(">HH4s", 1, 0, b"Exif"))
    )
    placed = box(b"iloc", bytes(4) + struct.pack(">HHHHH", 0x4400, 1, 1, 0, num) + struct.pack(">II", 0, 100) * num)
    return box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(b"meta", bytes(4) + named + placed)


def slow_profile(num: int) -> bytes:
    """A colour profile of `num` stages, all at the same 100 bytes: each is applied to 36,000 colours. It exchanges red and blue by
    the way, which the rest of the profile does not."""
    corners = [value for k in range(8) for value in (k & 1, k >> 1 & 1, k >> 2 & 1)]
    stage = struct.pack(">4sIHH16B24f", b"clut", 0, 3, 3, 2, 2, 2, *bytes(13), *corners)
    head = struct.pack(">4sIHHI", b"mpet", 0, 3, 3, num)
    table = head + struct.pack(">II", len(head) + 8 * num, len(stage)) * num + stage
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(NAME, "mine".encode("utf-16-be"))
    (tags,) = struct.unpack_from(">I", srgb, 128)
    rows = [struct.unpack_from(">4sII", srgb, 132 + 12 * k) for k in range(tags)]
    rows = [(name, place + 12, size) for name, place, size in rows] + [(b"D2B0", len(srgb) + 12, len(table))]
    listed = struct.pack(">I", len(rows)) + b"".join(struct.pack(">4sII", *row) for row in rows)
    return struct.pack(">I", len(srgb) + 12 + len(table)) + srgb[4:128] + listed + srgb[132 + 12 * tags :] + table


def legitimate() -> dict[str, bytes]:
    """What looks like a bomb and is none."""
    rng = random.Random(0)
    rest = rng.randbytes(12 << 20)  # of a film behind a photograph; some 180 times it says by chance that a scan begins
    depth = segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + rest[:65_000])
    frames = [Image.new("RGB", (16, 16), (k % 256, k // 256, 0)) for k in range(600)]
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", "n" * (3 << 20))
    texts.add_text("workflow", "n" * (9 << 20), zip=True)
    in_rows = io.BytesIO()
    photo(2000, 1500).save(in_rows, "TIFF", tiffinfo={278: 1})
    return {
        "progressive": jpeg(progressive=True),
        "progressive in four colours": saved(photo(mode="CMYK"), "JPEG", progressive=True, quality=95),
        "90 scans": scans(80, (640, 480)),
        "progressive with a film behind": jpeg(progressive=True) + rest,
        "with a depth map of 9 MB": jpeg(depth * 145, progressive=True),
        "with stray bytes between segments": jpeg(b"\xff" * 1000 + b"\0" * 1000),
        "restart markers": jpeg(restart_marker_blocks=1),
        "long texts": saved(photo(), pnginfo=texts),
        "pixels in chunks of 512 bytes": in_small_chunks(saved(photo(2000, 1500)), 512),
        "600 frames of a PNG": saved(frames[0], save_all=True, append_images=frames[1:]),
        "600 frames of a WebP": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "600 frames of a GIF": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "a GIF with 200 KB of XMP": gif(b"!\xff\x0bXMP DataXMP" + (b"\xff" + b"x" * 255) * 800 + b"\0"),
        "an AVIF with Exif": avif(tags([(0x010F, 2, 8, 26)], bytes(300_000))),
        "30 frames of an AVIF": saved(frames[0], "AVIF", save_all=True, append_images=frames[1:30], speed=10),
        "a TIFF in rows": in_rows.getvalue(),
        "a small BMP in runs": bmp_in_runs(300),
    }  # fmt: skip


def in_small_chunks(content: bytes, size: int) -> bytes:
    """A PNG with its pixels in many chunks."""
    at, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    found, data = at, b""
    while found < end:
        (length,) = struct.unpack_from(">I", content, found)
        data += content[found + 8 : found + 8 + length]
        found += 12 + length
    places = [*range(0, len(data), size), len(data)]
    return content[:at] + b"".join(chunk(b"IDAT", data[a:b]) for a, b in pairwise(places)) + content[end:]
