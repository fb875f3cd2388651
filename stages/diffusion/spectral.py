"""Spectral preconditioning: the Wiener filter of octave bands and opponent colours, with the network on top.

EDM's preconditioning supposes white data and a white error of the condition. Pictures have power-law spectra, and what upsampling
loses lies in the finest octaves: a network that says nothing then answers white noise. Here band k (bands.py) of colour c has the
data's variance S_kc and the variance R_kc of x0 - low_res, and each is filtered by its own precision:

    P_kc    = 1/S_kc + 1/sigma^2 + 1/(R_kc + aug_sigma^2)                      (no last term without low_res)
    x0_hat  = m + C^T sum_k B_k [C (x - m) / sigma^2 + C (low_res - m) / (R_kc + aug_sigma^2)] / P_kc + c_out F
    c_out^2 = mean of 1/P_kc over coefficients and colours                     weight = 1 / c_out^2

C: fixed orthonormal opponent colours of the first three channels, other channels (alpha) for themselves. m: mean colour. With one
band and one colour of mean 0 this is EDM's formula.

That takes the error of upsampling for independent of x0 (`beside` x0). But THE resize comes near a projection: what it loses is
nearly uncorrelated with what it keeps, so that low_res alone says x0 = low_res +- sqrt(R), with no pull to m (`beside` low_res):

    L_kc = S_kc - R_kc     q_kc = L_kc / (L_kc + aug_sigma^2)     P_kc = 1/sigma^2 + 1/(R_kc + q_kc aug_sigma^2)

with q_kc (P_kc - 1/sigma^2) for the weight of low_res. In the finest octave, where S = R, the former counts what is not there as a
second observation.

x, low_res (b, c, ..., h, w); sigma, aug_sigma (b,); scalars are float64 where sigma is, else float32.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from .bands import Bands
from .parametrisation import EDM, Inputs, expand
from .samplers import Answer

OPPONENT = (
    (1.0, 1.0, 1.0),
    (1.0, -1.0, 0.0),
    (1.0, 1.0, -2.0),
)  # lightness, red - green, yellow - blue
TINY = 1e-12  # variance of low_res in a band where nothing of x0 is left
Matrix = tuple[tuple[float, ...], ...]


def colours(channels: int, *, opponent: bool) -> Tensor:
    """C (channels, channels) float64, orthonormal."""
    matrix = torch.eye(channels, dtype=torch.float64)
    if opponent and channels >= 3:
        rows = torch.tensor(OPPONENT, dtype=torch.float64)
        matrix[:3, :3] = rows / rows.norm(dim=1, keepdim=True)
    return matrix


@cache
def variances(stds: Matrix, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Squares (bands, channels) of a matrix of stds; a row of one number counts for every channel."""
    return torch.tensor(stds, dtype=torch.float64).square().expand(-1, channels).to(device, dtype)


@dataclass(frozen=True, kw_only=True)
class Spectral:
    """Spectral preconditioning.

    std, lost: square roots of S and R, a row a band, finest first, of one number for each colour or one for all; lost None: a stage
    without low_res. mean: m, a number for each channel; () is 0. beside: what the error of low_res is independent of.
    """

    bands: Bands
    std: Matrix
    lost: Matrix | None = None
    mean: tuple[float, ...] = ()
    opponent: bool = True
    beside: Literal["x0", "low_res"] = "x0"

    def inputs(
        self, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Inputs:
        """Scale x and low_res, without their mean, to unit variance over all bands; noise and aug as EDM's."""
        if self.mean:
            mean = x.new_tensor(self.mean).reshape(-1, *[1] * (x.ndim - 2))
            x, low_res = x - mean, None if low_res is None else low_res - mean
        return self.white.inputs(x, sigma, low_res, aug_sigma)

    def estimate(
        self, F: Tensor, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, aug_sigma: Tensor | None = None
    ) -> Answer:
        """Filter x and low_res band by band, and add c_out F."""
        views, total = self._precisions(x.shape[1], sigma, aug_sigma)
        seen = x if low_res is None else torch.cat([x, low_res], dim=1)
        known = self._filtered(seen, [view / total for view in views])
        return Answer(torch.addcmul(known, expand(self._c_out(total), x), F.to(x.dtype)))

    def weight(self, sigma: Tensor, aug_sigma: Tensor | None = None) -> Tensor:
        """1 / c_out^2 (b,): a network that answers zero has the loss one at every level."""
        width = max(len(rows[0]) for rows in (self.std, self.lost) if rows)
        _, total = self._precisions(width, sigma, aug_sigma)
        return self._c_out(total) ** -2

    def error(self, aug_sigma: Tensor | None) -> Tensor | None:
        """Std (b,) of the condition's error over all bands, augmentation included; None without low_res."""
        return self.white.error(aug_sigma)

    @property
    def white(self) -> EDM:
        """EDM for the same variances over all bands, which it takes for white."""
        return EDM(sigma_data=self._over_all(self.std), low_res_sigma=self._over_all(self.lost) if self.lost else None)

    def _over_all(self, stds: Matrix) -> float:
        """Root of the mean variance of a coefficient."""
        squares = (
            share * sum(std**2 for std in row) / len(row) for share, row in zip(self.bands.shares, stds, strict=True)
        )
        return sum(squares) ** 0.5

    def _precisions(self, channels: int, sigma: Tensor, aug_sigma: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """What x and, if there is one, low_res weigh before they are divided by P, and P; all (b, bands, colours)."""
        sigma = sigma if sigma.dtype == torch.float64 else sigma.float()
        data = variances(self.std, channels, sigma.device, sigma.dtype)
        view = (sigma**-2)[:, None, None].expand(-1, *data.shape)
        if aug_sigma is None or self.lost is None:
            return [view], data**-1 + view
        lost = variances(self.lost, channels, sigma.device, sigma.dtype)
        noise = aug_sigma.to(sigma).square()[:, None, None]
        if self.beside == "x0":
            low = (lost + noise) ** -1
            return [view, low], data**-1 + view + low
        lost = torch.minimum(lost, data)
        kept = (data - lost).clamp(min=TINY)
        passed = kept / (kept + noise)
        prior = (lost + passed * noise) ** -1
        return [view, passed * prior], prior + view

    def _c_out(self, total: Tensor) -> Tensor:
        shares = torch.tensor(self.bands.shares, dtype=total.dtype, device=total.device)
        return (total**-1).mean(2).mul(shares).sum(1).sqrt()

    def _filtered(self, seen: Tensor, views: list[Tensor]) -> Tensor:
        """m + C^T sum_k B_k (C (view - m) times its numbers (b, bands, colours)), summed over the views that stand one after
        the other in `seen` (b, views c, ...)."""
        channels, dtype = seen.shape[1] // len(views), seen.dtype
        mix = colours(channels, opponent=self.opponent).to(seen.device, views[0].dtype)
        steps = torch.stack([torch.diff(view, dim=1, prepend=torch.zeros_like(view[:, :1])) for view in views], 2)
        matrices = torch.einsum(
            "dc,bkvd,de->bkcve", mix, steps, mix
        )  # of level k: what band k weighs more than band k - 1 does
        matrices = matrices.flatten(3).to(dtype)
        offset = None
        if self.mean:  # a constant lies in the coarsest band
            mean = views[0].new_tensor(self.mean)
            passed = torch.stack(views).sum(0)[:, -1]
            offset = (mean - torch.einsum("dc,bd,de,e->bc", mix, passed, mix, mean)).to(dtype)

        def weigh(k: int, level: Tensor) -> Tensor:
            flat = level.reshape(len(seen), len(views) * channels, -1)
            mixed = matrices[:, k] @ flat
            mixed = mixed if k or offset is None else mixed + offset[:, :, None]
            return mixed.reshape(len(seen), -1, *level.shape[-2:])

        flat = seen.reshape(len(seen), -1, *seen.shape[-2:])
        return self.bands.weighted(flat, weigh).reshape(len(seen), channels, *seen.shape[2:])
