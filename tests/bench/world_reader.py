"""How often the reader of data/world is right about true pictures, by size, and at 64 px with slight blur and noise.

python tests/bench/world_reader.py --num 3000
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
import typer
from torchvision.transforms.v2.functional import gaussian_blur

from data.cli import run
from data.world.scenes import draw, scene
from data.world.score import score

BLUR_PX, NOISE_STD = 0.5, 0.03  # std of the blur in px; of the noise, of the range


def pictures(num: int, size: int) -> Iterator[np.ndarray]:
    """The first scenes, (size, size, 3) uint8."""
    return (np.array(draw(scene(k), size)) for k in range(num))


def spoiled(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with slight blur and noise."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1).float()
    blurred = gaussian_blur(pixels, [5, 5], [BLUR_PX, BLUR_PX]).permute(1, 2, 0).numpy()
    return (blurred + rng.normal(0, NOISE_STD * 255, picture.shape)).round().clip(0, 255).astype(np.uint8)


def main(num: Annotated[int, typer.Option(help="scenes of each size")] = 3000) -> None:
    """Print a line for each size, and one for spoiled pictures of 64 px."""
    captions = [scene(k).caption.text for k in range(num)]
    for size in (16, 64, 256):
        print(f"{size} px: {score(pictures(num, size), captions)}", flush=True)
    rng = np.random.default_rng(0)
    print(f"64 px, spoiled: {score((spoiled(each, rng) for each in pictures(num, 64)), captions)}")


if __name__ == "__main__":
    run(main)
