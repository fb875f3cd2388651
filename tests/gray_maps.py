"""Maps for tests: of each picture of a folder its brightness, where data.pack looks for them."""

from pathlib import Path

from PIL import Image


def write_maps(folder: Path, pictures: Path, mode: str = "L", size: tuple[int, int] | None = None) -> Path:
    """Write a map of each PNG of `pictures` into `folder`, under its name. size: (width, height), if not the picture's."""
    for path in sorted(pictures.rglob("*.png")):
        target = folder / path.relative_to(pictures)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            gray = image.convert("L")
            (gray if size is None else gray.resize(size)).convert(mode).save(target)
    return folder
