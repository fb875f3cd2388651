"""Reads what the commands wrote, and changes bundles."""

import json
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file, save_file

from data.files import file_sha256


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a picture that is whole."""
    with Image.open(path) as image:
        image.load()
        return image.size


def picture(path: Path, side: int) -> Path:
    Image.new("RGB", (side, side), (200, 30, 30)).save(path)
    return path


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def replace_weights(bundle: Path, change) -> None:
    """A bundle whose weights are changed and whose sha256 is right all the same."""
    weights = load_file(bundle / "ema.safetensors")
    change(weights)
    save_file(weights, bundle / "ema.safetensors")
    edit(bundle / "stage.json", lambda values: values.update(sha256=file_sha256(bundle / "ema.safetensors")))
