"""Command: measure the two statistics of the data that preconditioning needs, sigma_data and low_res_sigma.

python -m stages.measure shards/emoji_64 --resolution 64 --low-res 16
"""

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
    import torch

    from data.read.shards import read_split

    from .spaces.pixels_config import PixelsConfig

    space = PixelsConfig().build()

    if low_res and (low_res >= resolution or resolution % low_res):
        raise ValueError(f"--low-res {low_res} must divide --resolution {resolution} and be smaller")
    squares, errors, num_seen = [], [], 0
    for batch in read_split(data, "train", batch=50, resolution=resolution, limit=images):
        x0 = space.read(batch.image, (resolution, resolution))
        squares.append(x0.square().flatten(1).mean(1))
        if low_res:
            upsampled = space.up(space.down(x0, (low_res, low_res)), (resolution, resolution))
            errors.append((x0 - upsampled).square().flatten(1).mean(1))
        num_seen += len(batch)
    print(
        f"noise: {{sigma_data: {torch.cat(squares).mean().sqrt():.3f}}}  # root-mean-square of {num_seen:,} pictures in [-1, 1]"
    )
    if low_res:
        print(f"low_res_sigma: {torch.cat(errors).mean().sqrt():.3f}  # of x0 - upsample(low_res)")


if __name__ == "__main__":
    run(main)
