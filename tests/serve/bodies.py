"""Bodies that clients send, small pictures, and how many jobs there are."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

from tests.serve.serving import Client

GOOD: dict[str, Any] = {"prompts": ["red heart"]}
JSON = {"content-type": "application/json"}


def jobs(client: Client) -> int:
    return len(client.get("/v1/jobs", params={"limit": 200}).json()["jobs"])


def png(width: int, height: int, data: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG that claims a size, RGB of 8 bit, whatever its data are."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = b"".join(chunk(*each) for each in (*extra, (b"IDAT", data), (b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + head + rest


def tiny_png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "PNG")
    return content.getvalue()
