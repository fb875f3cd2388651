"""Command: measure the statistics of the data that preconditioning needs: sigma_data, low_res_sigma, and the spectrum.

python -m stages.measure shards/emoji_64 --resolution 64 --low-res 16
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from data.cli import run
from data.line import say

if TYPE_CHECKING:
    from .parametrisations.spectral_config import SpectralConfig


def main(
    data: Annotated[str, typer.Argument(help="shards, from data.pack")],
    resolution: Annotated[int, typer.Option(help="side of the stage's pictures, px")],
    low_res: Annotated[int, typer.Option(help="side of a super-resolution stage's condition, px; 0: a base stage")] = 0,
    images: Annotated[int, typer.Option(help="how many pictures to look at")] = 1000,
    bands: Annotated[
        int, typer.Option(help="octaves of the spectrum; 0: down to 4 px, or none for a side that is odd")
    ] = 0,
) -> None:
    """Print the lines that belong into a stage's YAML."""
    if low_res and (low_res >= resolution or resolution % low_res):
        raise ValueError(f"--low-res {low_res} must divide --resolution {resolution} and be smaller")
    found = statistics(data, resolution, low_res, images)
    say(f"noise: {{sigma_data: {found.sigma_data:.3f}}}  # root-mean-square of {found.num:,} pictures in [-1, 1]")
    if low_res:
        say(f"low_res_sigma: {found.low_res_sigma:.3f}  # of x0 - upsample(low_res)")
    say("# or, by octave band and colour:")
    say("\n".join(as_yaml(measured(data, resolution, low_res, images, bands))))


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


def measured(data: str, resolution: int, low_res: int, images: int, bands: int) -> "SpectralConfig":
    """Measure the spectrum of the same pictures. Raises ValueError for bands that do not halve the side evenly."""
    from data.read.mixture import facts
    from data.read.shards import read_split

    from .config import BaseConfig, StageBase, SuperResConfig
    from .nets.unet_config import UNetConfig
    from .spectrum import num_bands, num_images, spectrum

    index = facts(data)
    net, channels = UNetConfig(widths=(8,), blocks=(1,)), index.channels
    config: StageBase = BaseConfig(resolution=resolution, channels=channels, net=net)
    if low_res:
        config = SuperResConfig(resolution=resolution, low_res=low_res, channels=channels, net=net)
    bands = bands or num_bands(resolution)
    if bands < 1 or resolution % (1 << (bands - 1)):
        raise ValueError(
            f"--bands {bands}: {resolution} px do not halve {bands - 1} times; give 1 to {num_bands(resolution)}"
        )
    batches = read_split(data, "train", batch=50, resolution=resolution, limit=num_images(config, images))
    return spectrum(config, (batch.image for batch in batches), bands=bands, data=index.fingerprint)


def as_yaml(found: "SpectralConfig") -> list[str]:
    """Lines of YAML to paste, a row of numbers each."""
    lines = ["parametrisation:", "  kind: spectral", f"  bands: {found.bands}", f"  mean: {list(found.mean)}"]
    for name, rows in (("std", found.std), ("error", found.error)):
        if rows:
            lines += [f"  {name}:", *(f"    - {list(row)}" for row in rows)]
    return [*lines, f"  data: {found.data}"]


if __name__ == "__main__":
    run(main)
