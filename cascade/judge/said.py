"""The captions of the pictures of a folder, of a tar or of a data set, by name; what has none is not in it."""

from pathlib import Path

from cascade.judge.about import read_about
from cascade.judge.labelled import Columns, listed
from data.index import INDEX_NAME
from data.index.tree import look as files_below
from data.tar import PACK_MEMBERS, contents


def captions_of(source: str, split: str) -> dict[str, str]:
    """By the names that `load_side` gives: of a data set; a folder's metadata, texts beside pictures, what sample.py wrote; a
    tar's texts.

    Raises ValueError, OSError.
    """
    folder = Path(source)
    if folder.is_file() and not (folder.parent / INDEX_NAME).exists():
        return _of_tar(folder)
    if folder.is_dir() and not (folder / INDEX_NAME).exists() and not any(folder.glob("*.tar")):
        return _of_folder(folder)
    return {key: each.caption for key, each in read_about(source, split).items() if each.caption}


def _of_tar(path: Path) -> dict[str, str]:
    """The texts beside the pictures of a tar."""
    return {
        f"{each.key}.{extension}": each.members["txt"].read().decode("utf-8", "replace").strip()
        for each in contents(path)
        if "txt" in each.members
        for extension in each.members.keys() & set(PACK_MEMBERS)
    }


def _of_folder(folder: Path) -> dict[str, str]:
    return {row.name: row.text for _, row in listed(files_below(folder), Columns(), strict=False) if row.text}
