"""Command: measure the statistics of the data that preconditioning needs: sigma_data, low_res_sigma, and the spectrum.

python -m stages.measure shards/emoji_64 --resolution 64 --low-res 16
python -m stages.measure shards/photos_128 degrade.probability=0.8 --resolution 128 --low-res 32
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from data.cli import run
from data.line import say

if TYPE_CHECKING:
    from .config import StageBase
    from .degrade_config import DegradeConfig
    from .parametrisations.spectral_config import SpectralConfig


def main(
    data: Annotated[str, typer.Argument(help="shards, from data.pack")],
    degradations: Annotated[
        list[str] | None,
        typer.Argument(help="of low_res, as in the stage's YAML: degrade.probability=0.8 degrade.order=2"),
    ] = None,
    *,
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
    degrade = degrade_of(degradations or [])
    if degrade and not low_res:
        raise ValueError(f"{' '.join(degradations or [])}: a base stage has no low_res to degrade; give --low-res")
    found = statistics(data, resolution, low_res, images, degrade)
    say(f"noise: {{sigma_data: {found.sigma_data:.3f}}}  # root-mean-square of {found.num:,} pictures in [-1, 1]")
    if low_res:
        how = ", degraded as in training" if degrade else ""
        say(f"low_res_sigma: {found.low_res_sigma:.3f}  # of x0 - upsample(low_res){how}")
    say("# or, by octave band and colour:")
    say("\n".join(as_yaml(measured(data, resolution, low_res, images, bands, degrade))))


def degrade_of(said: list[str]) -> "DegradeConfig | None":
    """Parse ["degrade.probability=0.8"]; None for nothing. Raises ValueError, also for a probability that is 0 or missing."""
    from pydantic import ValidationError

    from data.errors import first_error, nearest

    from .degrade_config import DegradeConfig

    keys, values = [f"degrade.{name}" for name in DegradeConfig.model_fields], {}
    for text in said:
        key, _, value = text.partition("=")
        if key not in keys or not value:
            raise ValueError(f"{text}: write KEY=VALUE, keys are {', '.join(keys)}{nearest(key, keys)}")
        values[key.removeprefix("degrade.")] = value
    try:
        degrade = DegradeConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"degrade.{first_error(error)}") from None
    if said and not degrade.probability:
        raise ValueError(
            f"{' '.join(said)}: degrade.probability is 0, nothing would be degraded; give it, or none of them"
        )
    return degrade if said else None


def stage_of(resolution: int, low_res: int, channels: int, degrade: "DegradeConfig | None") -> "StageBase":
    """The config of a stage of these sides, with any network. Raises ValueError for pictures that cannot be degraded."""
    from .config import BaseConfig, SuperResConfig
    from .degrade_config import DegradeConfig
    from .nets.unet_config import UNetConfig

    net = UNetConfig(widths=(8,), blocks=(1,))
    if not low_res:
        return BaseConfig(resolution=resolution, channels=channels, net=net)
    if degrade and channels != 3:
        raise ValueError(
            f"degrade.probability: only pictures of 3 channels are degraded, these have {channels}; leave it out"
        )
    return SuperResConfig(
        resolution=resolution, low_res=low_res, channels=channels, net=net, degrade=degrade or DegradeConfig()
    )


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of `num` pictures in [-1, 1]: their root-mean-square, and that of x0 - upsample(low_res), 0 for a base stage."""

    sigma_data: float
    low_res_sigma: float
    num: int


def statistics(
    data: str, resolution: int, low_res: int = 0, images: int = 1000, degrade: "DegradeConfig | None" = None
) -> Statistics:
    """Measure the first `images` training pictures of shards at a stage's resolution; degrade: what its low_res loses besides."""
    import torch

    from data.read.mixture import facts
    from data.read.shards import read_split

    from .spectrum import shrunk

    config = stage_of(resolution, low_res, facts(data).channels, degrade)
    space = config.space.build()
    squares, errors, num_seen = [], [torch.zeros(1)], 0
    for batch in read_split(data, "train", batch=50, resolution=resolution, limit=images):
        x0 = space.read(batch.image, (resolution, resolution))
        squares.append(x0.square().flatten(1).mean(1))
        if low_res:
            below = shrunk(config, space, batch.image, x0, (low_res, low_res), first=num_seen)
            errors.append((x0 - space.up(below, (resolution, resolution))).square().flatten(1).mean(1))
        num_seen += len(batch)
    rms = [torch.cat(parts).mean().sqrt().item() for parts in (squares, errors[1:] or errors)]
    return Statistics(sigma_data=rms[0], low_res_sigma=rms[1], num=num_seen)


def measured(
    data: str, resolution: int, low_res: int, images: int, bands: int, degrade: "DegradeConfig | None" = None
) -> "SpectralConfig":
    """Measure the spectrum as train.py does. Raises ValueError for bands that do not halve the side evenly."""
    from data.read.mixture import facts

    from .spectrum import num_bands, of_shards

    index = facts(data)
    config = stage_of(resolution, low_res, index.channels, degrade)
    bands = bands or num_bands(resolution)
    if bands < 1 or resolution % (1 << (bands - 1)):
        raise ValueError(
            f"--bands {bands}: {resolution} px do not halve {bands - 1} times; give 1 to {num_bands(resolution)}"
        )
    return of_shards(config, data, index.fingerprint, images=images, bands=bands)


def as_yaml(found: "SpectralConfig") -> list[str]:
    """Lines of YAML to paste, a row of numbers each."""
    lines = ["parametrisation:", "  kind: spectral", f"  bands: {found.bands}", f"  mean: {list(found.mean)}"]
    for name, rows in (("std", found.std), ("error", found.error)):
        if rows:
            lines += [f"  {name}:", *(f"    - {list(row)}" for row in rows)]
    return [*lines, f"  data: {found.data}"]


if __name__ == "__main__":
    run(main)
