"""Find the Exif of an AVIF without decoding: `iinf` lists the items that are Exif, `iloc` where their bytes lie.

Box layout: ISO/IEC 14496-12, sections 4.2, 8.11.3 and 8.11.6. Damaged boxes are left to the decoder.
"""

from collections.abc import Iterator

MAX_PIECES = 20_000  # over all items; also the most boxes at one level
WITHIN = (b"moov", b"trak")  # boxes of an image sequence, which has a `meta` of its own in them


def exif_of(content: bytes) -> list[list[bytes]]:
    """The pieces of each Exif item; joined they begin with 4 bytes before the TIFF. Raises ValueError above MAX_PIECES."""
    exif: list[list[bytes]] = []
    for meta in _metas(content, 0, len(content)):
        inner = dict(_boxes(content, meta[0] + 4, meta[1]))
        items = _exif_items(content, *inner.get(b"iinf", (0, 0)))
        data = inner.get(b"idat", (0, 0))
        if items:
            exif += _pieces(content, *inner.get(b"iloc", (0, 0)), items, data)
    return exif


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield (kind, (begin, end)) of the boxes in [at, end), last first, so that a dict keeps the first of each kind."""
    boxes: list[tuple[bytes, tuple[int, int]]] = []
    while at + 8 <= end and len(boxes) < MAX_PIECES:
        size, kind, begin = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8], at + 8
        if size == 1:
            size, begin = int.from_bytes(content[begin : begin + 8]), at + 16
        size = size or end - at
        if size < begin - at:
            break
        boxes.append((kind, (begin, min(at + size, end))))
        at += size
    yield from reversed(boxes)


def _metas(content: bytes, at: int, end: int, depth: int = len(WITHIN)) -> Iterator[tuple[int, int]]:
    for kind, extent in _boxes(content, at, end):
        if kind == b"meta":
            yield extent
        elif kind in WITHIN and depth:
            yield from _metas(content, *extent, depth - 1)


def _exif_items(content: bytes, at: int, end: int) -> set[int]:
    """Item numbers of the Exif items that an `iinf` box lists."""
    is_long = content[at : at + 1] != b"\0"
    numbers = set()
    for kind, (begin, stop) in _boxes(content, at + (8 if is_long else 6), end):
        width = 4 if content[begin : begin + 1] == b"\3" else 2
        if kind == b"infe" and content[begin + 6 + width : min(begin + 10 + width, stop)] == b"Exif":
            numbers.add(int.from_bytes(content[begin + 4 : begin + 4 + width]))
    return numbers


def _pieces(content: bytes, at: int, end: int, items: set[int], data: tuple[int, int]) -> list[list[bytes]]:
    """Read an `iloc` box. data: extent of `idat`, in which pieces can lie instead of in the file."""
    read = _Reader(content[at:end])
    pieces, num = [], 0
    try:
        version = read(1)
        read(3)
        sizes = read(2)
        wide_offset, wide_length, wide_base, wide_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        for _ in range(read(4 if version == 2 else 2)):
            item = read(4 if version == 2 else 2)
            is_inside = version > 0 and read(2) & 15 == 1
            read(2)
            base = read(wide_base)
            extents = []
            for _ in range(read(2)):
                read(wide_index if version > 0 else 0)
                extents.append((base + read(wide_offset), read(wide_length)))
            num += len(extents) + 1
            if num > MAX_PIECES:
                raise ValueError(f"over {MAX_PIECES:,}")
            if item in items:
                begin, stop = data if is_inside else (0, len(content))
                pieces.append(
                    [
                        content[begin + offset : min(begin + offset + (length or stop), stop)]
                        for offset, length in extents
                    ]
                )
    except EOFError:
        pass
    return pieces


class _Reader:
    """Reads big-endian numbers one after another; EOFError at the end."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def __call__(self, num_bytes: int) -> int:
        self.at += num_bytes
        if self.at > len(self.content):
            raise EOFError
        return int.from_bytes(self.content[self.at - num_bytes : self.at])
