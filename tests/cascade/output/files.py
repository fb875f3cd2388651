"""Writes pictures as sample.py does, and reads what was written."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cascade.output.destinations import output_for
from cascade.output.saving import save_one
from cascade.pipeline import Cascade
from cascade.request import Request

CLASSES = ("circle", "square", "ring")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def make(out: str, model: Cascade, request: Request, pick=(), *, overwrite: bool = False) -> None:
    """As sample.py does."""
    output = output_for(out, stages=False, overwrite=overwrite)
    with output.held():
        save_one(model, output, model.resolve(request), pick)
