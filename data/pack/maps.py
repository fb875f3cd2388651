"""Maps beside pictures: a second folder with a picture of the same name for each picture of the source, or members of tars."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

from data.decode import is_gray
from data.index.items import Item, Source, whole
from data.tar import PACK_MEMBERS


def with_maps(source: Source, maps: str | None, *, tars: bool = False) -> Source:
    """A source whose items have their maps of the folder `maps`, if one is given; those of tars have the members of that extension
    already. Raises ValueError for a picture without a map, and for maps of which some are gray and others not."""
    if maps is None:
        return source
    folder = Path(maps)
    if tars:
        items = source.items
        if bare := [item for item in items if item.map is None]:
            raise ValueError(
                f"--maps {maps}: {len(bare)} of {len(items)} samples have no such member, the first is {bare[0].name}; name the "
                "extension of the map of each picture, for instance map.png"
            )
    else:
        if not folder.is_dir():
            raise ValueError(f"--maps {folder} is not a folder; name one with a map for each picture")
        items = [replace(item, map=whole(_found(folder, item))) for item in source.items]
    gray = [_is_gray(item) for item in items]
    if any(gray) and not all(gray):
        odd = items[gray.index(not gray[0])].name
        raise ValueError(
            f"--maps {folder}: the map of {items[0].name} is {_word(gray[0])}, that of {odd} is not; save all alike"
        )
    return replace(source, items=items)


def channels_of(items: list[Item]) -> int:
    """Channels of the maps of these items: 1 if they are gray, else 3."""
    return 1 if items and _is_gray(items[0]) else 3


def _word(gray: bool) -> str:
    return "gray" if gray else "coloured"


def _is_gray(item: Item) -> bool:
    assert item.map is not None
    try:
        return is_gray(item.map.read())
    except ValueError as error:
        raise ValueError(f"{item.map.path}: {error}") from error


def _found(folder: Path, item: Item) -> Path:
    name = PurePosixPath(item.name)
    for path in (folder / name, *(folder / name.with_suffix(f".{suffix}") for suffix in PACK_MEMBERS)):
        if path.is_file():
            return path
    raise ValueError(f"--maps {folder}: no map for {item.name}; add {name.with_suffix('.png')}")
