"""Splits by their usual names: in the names of shards and folders, and in a column of metadata."""

import re

SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}
_SPLITS = {word: split for split, words in SPLIT_WORDS.items() for word in words}


def split_of(path: str) -> str:
    """The split of a shard by its path: that of the nearest part which contains such a word on its own, else train."""
    for part in reversed(path.split("/")):
        splits = {_SPLITS[word] for word in _words(part) if word in _SPLITS}
        if len(splits) > 1:
            raise ValueError(f"shard {path} names the splits {' and '.join(sorted(splits))}; rename it to one of them")
        if splits:
            return splits.pop()
    return "train"


def split_named(name: str) -> str | None:
    """The split that a folder or a value is named after as a whole: "val2017" is, "test drive" is not; else None."""
    words = [word for word in _words(name) if word]
    return _SPLITS.get(words[0]) if len(words) == 1 else None


def _words(name: str) -> list[str]:
    return re.split(r"[\W\d_]+", name.lower())
