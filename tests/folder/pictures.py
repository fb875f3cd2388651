"""Folders of pictures as people have them: smooth colours, each its own, of any size, with captions, classes, copies."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (80, 80), *, alpha: bool = False) -> Image.Image:
    """A smooth picture of its own, (width, height) px."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 4 if alpha else 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def fill(folder: Path, num: int, size: tuple[int, int] = (80, 80), *, start: int = 0, alpha: bool = False) -> Path:
    """Write `num` pictures as PNG. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(start, start + num):
        picture(k, size, alpha=alpha).save(folder / f"{k:04d}.png")
    return folder


def caption(folder: Path, text: str = "a picture of number {k}") -> None:
    """Write a caption beside each picture."""
    for k, path in enumerate(sorted(folder.glob("*.png"))):
        path.with_suffix(".txt").write_text(text.format(k=k))
