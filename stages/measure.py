"""Command: measure the two statistics of the data that preconditioning needs, sigma_data and low_res_sigma.

python -m stages.measure shards/emoji_64 --resolution 64 --low-res 16
"""

from dataclasses import dataclass
from typing import Annotated

import typer

from data.cli import run


def main(
    data: Annotated[str, typer.Argument(help="shards, from data.pack")],
    resolution: Annotated[int, typer.Option(help="side of the stage's pictures, px")],
    low_res: Annotated[int, typer.Option(help="side of a super-resolution stage's condition, px; 0: a base stage")] = 0,
    images: Annotated[int, typer.Option(help="how many pictures to look at")] = 1000,
) -> None:
    """Print the lines that belong into a stage's YAML."""
    if low_res and (low_res >= resolution or resolution % low_res):
        raise ValueError(f"--low-res {low_res} must divide --resolution {resolution} and be smaller")
    found = statistics(data, resolution, low_res, images)
    print(f"noise: {{sigma_data: {found.sigma_data:.3f}}}  # root-mean-square of {found.num:,} pictures in [-1, 1]")
    if low_res:
        print(f"low_res_sigma: {found.low_res_sigma:.3f}  # of x0 - upsample(low_res)")


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of `num` pictures in [-1, 1]: their root-mean-square, and that of x0 - upsample(low_res), 0 for a base stage."""

    sigma_data: float
    low_res_sigma: float
    num: int


def statistics(data: str, resolution: int, low_res: int = 0, images: int = 1000) -> Statistics:
    """Measure the first `images` training pictures of shards at a stage's resolution."""
    import torch

    from data.read.shards import read_split

    from .spaces.pixels_config import PixelsConfig

    space = PixelsConfig().build()
    squares, errors, num_seen = [], [torch.zeros(1)], 0
    for batch in read_split(data, "train", batch=50, resolution=resolution, limit=images):
        x0 = space.read(batch.image, (resolution, resolution))
        squares.append(x0.square().flatten(1).mean(1))
        if low_res:
            upsampled = space.up(space.down(x0, (low_res, low_res)), (resolution, resolution))
            errors.append((x0 - upsampled).square().flatten(1).mean(1))
        num_seen += len(batch)
    rms = [torch.cat(parts).mean().sqrt().item() for parts in (squares, errors[1:] or errors)]
    return Statistics(sigma_data=rms[0], low_res_sigma=rms[1], num=num_seen)


if __name__ == "__main__":
    run(main)
