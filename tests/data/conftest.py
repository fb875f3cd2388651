"""Small packed data sets that the tests share; their text encoder is a stand-in (test_text.py has the real one)."""

import io
import tarfile
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from PIL import Image

from data.index.items import Choices, Source
from data.index.tally import index_folder
from data.index.tree import look
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.pack.sources import find_kind, list_source
from data.shapes import write_folder
from data.tar import stream
from data.text import TextEncoder

SIDE = 24


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


class StandInEncoder:
    """Token features that can be computed by hand: one token a word, filled with its length."""

    id, dim = "stand-in-1", 4

    def __init__(self, max_tokens=8):
        self.max_tokens = max_tokens

    def encode(self, texts):
        words = [text.split()[: self.max_tokens] or [""] for text in texts]
        return [np.array([[len(word)] * self.dim for word in row], np.float16) for row in words]


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """The stand-in is what `TextEncoder.load` gives; it can be called as the real one can, not otherwise."""
    load = create_autospec(TextEncoder.load, side_effect=lambda *args, max_tokens, **how: StandInEncoder(max_tokens))
    patch.setattr(TextEncoder, "load", load)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """An image folder with metadata.jsonl: 96 shapes of SIDE px."""
    return write_folder(tmp_path_factory.mktemp("shapes"), 96, SIDE)


@pytest.fixture(scope="session")
def packed(shapes, tmp_path_factory):
    """96 shapes at SIDE px in 8 shards, with labels and (stand-in) text features; not to be changed."""
    folder = tmp_path_factory.mktemp("packed") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        pack(shapes, folder, PackSettings(size=SIDE, shards=8, text_encoder="stand-in", text_tokens=8))
    return folder


@pytest.fixture
def put_tar():
    return make_tar


def png(color=(200, 30, 30), size=(SIDE, SIDE), mode="RGB", **save) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, save.pop("format", "PNG"), **save)
    return out.getvalue()


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    """A tar with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def lay(folder: Path, *pictures: str, others: dict[str, bytes | str] | None = None) -> Path:
    """A folder of pictures and of other files."""
    files: dict[str, bytes | str] = {name: png() for name in pictures} | (others or {})
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def foreign_folder(folder: Path, num_shards: int = 2, num: int = 5, index: bool = True) -> Path:
    """Tars as img2dataset writes them, of pictures of one colour each: shard s, sample k has key sssss-kkkk."""
    for s in range(num_shards):
        members: list[tuple[str, bytes]] = []
        for k in range(num):
            key = f"{s:05d}{k:04d}"
            members += [
                (f"{key}.jpg", png((10 * k, 20 * s, 90), format="JPEG")),
                (f"{key}.json", b'{"caption": "x"}'),
                (f"{key}.txt", f"picture {k} of {s}".encode()),
            ]
        make_tar(folder / f"{s:05d}.tar", members)
    if index:
        reindex(folder)
    return folder


def listed(folder: Path, **choices) -> Source:
    """What a folder is read as, by `Choices`, without packing it."""
    tree, asked = look(folder), Choices(**choices)
    return list_source(tree, find_kind(tree, asked), asked)


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """All samples of a packed folder by key."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with path.open("rb") as file:
            found.update(stream(file, path.name))
    return found


def reindex(folder: Path):
    from data.index import save

    index = index_folder(folder)
    save(index, folder)
    return index
