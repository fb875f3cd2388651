"""Folders of small pictures for votes."""

import json
from pathlib import Path

import torch

from cascade.output.pictures import save_png


def fill(folder: Path, names: list[str], *, seed: int, captions: list[str] | None = None) -> Path:
    """Pictures of 8 px that are all different, and a metadata.jsonl if there are captions."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        picture = torch.randint(0, 256, (3, 8, 8), generator=generator, dtype=torch.uint8)
        save_png(picture, folder / f"{name}.png", {})
    if captions:
        rows = [{"file_name": f"{name}.png", "text": text} for name, text in zip(names, captions, strict=True)]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
