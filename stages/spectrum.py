"""The spectrum of a data set as spectral preconditioning needs it: variances by octave band and opponent colour, and the mean."""

from collections.abc import Iterable

import torch
from torch import Tensor

from data.batch import Batch, Cond
from data.read.mixture import MixtureLike
from data.read.shards import read_split

from .config import StageBase, SuperResConfig
from .degrade import degraded
from .diffusion.bands import Bands
from .diffusion.spectral import colours
from .draws import Draws
from .parametrisations.octaves import octaves
from .parametrisations.spectral_config import SpectralConfig
from .spaces.space import Space

SMALLEST = 0.002  # std of what 8 bits round, 1 / 127.5 / sqrt(12): no picture is known better
COARSEST = 4  # px: the side of the low-pass where the number of bands is not given
PIXELS = 1 << 25  # as many suffice; of large pictures fewer are read


def num_bands(side: int) -> int:
    """Octaves down to COARSEST px, as far as `side` halves evenly."""
    num = 1
    while side % 2 == 0 and side // 2 >= COARSEST:
        num, side = num + 1, side // 2
    return num


def num_images(config: StageBase, wanted: int) -> int:
    """How many pictures of a stage to measure, at most `wanted`."""
    return max(16, min(wanted, PIXELS // config.resolution**2))


def spectrum(
    config: StageBase, images: Iterable[Tensor], *, bands: int, opponent: bool = True, data: str = ""
) -> SpectralConfig:
    """Measure S, R and m (stages/diffusion/spectral.py) of a stage's x0, from batches of stored pictures, uint8 (b, c, h, w).

    The energy of a band is divided by that of white noise of std 1, so that white data have the same S in every band. low_res is
    degraded in the share of the pictures that the config says, so that R is the error which the stage will meet. Four
    significant digits: every rank of a training measures the same. Raises ValueError without pictures.
    """
    totals: dict[str, Tensor] = {}
    num_seen, num_pixels, mean, gains = 0, 0, torch.zeros(()), torch.zeros(())
    near: Tensor | None = None  # a first guess of the mean; the energy of a constant would drown the coarsest band
    space, split = config.space.build(), octaves(bands)
    for stored in images:
        x0 = space.read(stored, config.size)
        near = x0.transpose(0, 1).flatten(1).mean(1) if near is None else near
        mix = colours(x0.shape[1], opponent=opponent)
        gains = torch.tensor(split.gains(x0.shape[-2:]), dtype=torch.float64)[:, None]
        parts = {"std": x0 - near.reshape(-1, *[1] * (x0.ndim - 2))}
        if config.takes is not None:
            below = config.shape(config.takes)[1:]
            low_res = shrunk(config, space, stored, x0, (below[0], below[1]), first=num_seen)
            parts["error"] = x0 - space.up(low_res, config.size)
        for name, part in parts.items():
            totals[name] = totals.get(name, 0) + energies(split, mix, part)
        mean = mean + x0.double().transpose(0, 1).flatten(1).sum(1)
        num_seen, num_pixels = num_seen + len(x0), num_pixels + x0[:, 0].numel()
    if near is None:
        raise ValueError("spectrum: no pictures to measure; give shards with a train split")
    mean = mean / num_pixels
    variances = {name: total / num_pixels / gains for name, total in totals.items()}
    variances["std"][-1] -= (mix @ (mean - near)).square() / gains[-1]
    rows = {name: rounded(value.clamp(min=SMALLEST**2).sqrt()) for name, value in variances.items()}
    return SpectralConfig(
        bands=bands,
        colours="opponent" if opponent else "own",
        std=rows["std"],
        error=rows.get("error", ()),
        mean=tuple(digits(m) for m in mean.tolist()),
        data=data,
    )


def of_shards(
    config: StageBase, data: MixtureLike, fingerprint: str, *, images: int, bands: int, opponent: bool = True
) -> SpectralConfig:
    """Measure the first pictures of the train split of shards, at most about `images`; fingerprint: of the shards."""
    limit = num_images(config, images)
    batches = read_split(data, "train", batch=min(limit, 50), resolution=config.resolution, limit=limit)
    return spectrum(config, (batch.image for batch in batches), bands=bands, opponent=opponent, data=fingerprint)


def shrunk(config: StageBase, space: Space, stored: Tensor, x0: Tensor, size: tuple[int, int], *, first: int) -> Tensor:
    """The low_res of x0 as in training: THE downsample, or degraded with the random numbers of pictures `first` and on."""
    if not isinstance(config, SuperResConfig) or not config.degrade.probability:
        return space.down(x0, size)
    index = torch.arange(first, first + len(x0), device=x0.device)
    batch = Batch(image=stored, cond=Cond.empty(len(x0)), index=index, keys=tuple(map(str, index.tolist())))
    return degraded(x0, size, config.degrade, Draws(batch, config.train.seed))


def energies(split: Bands, mix: Tensor, x: Tensor) -> Tensor:
    """Sum of squares (bands, colours) of x (b, c, ..., h, w), float64."""
    mixed = torch.einsum("dc,bc...->bd...", mix.to(x), x)
    flat = mixed.reshape(len(x), -1, *x.shape[-2:])
    found = [band.reshape(len(x), x.shape[1], -1).double().square().sum((0, 2)) for band in split.split(flat)]
    return torch.stack(found)


def rounded(rows: Tensor) -> tuple[tuple[float, ...], ...]:
    """A matrix as nested tuples of four significant digits."""
    return tuple(tuple(digits(value) for value in row) for row in rows.tolist())


def digits(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")
