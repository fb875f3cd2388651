"""Worlds whose optimal denoiser is known in closed form, so that no test of the mathematics needs a trained network.

`GaussianData`: every pixel normal. Optimal denoiser, exact probability-flow path and Bayes risk are one line each.
`FiniteData`: a fixed set of pictures, equally likely. The optimal denoiser is a softmax-weighted mean of the set, also
when a class or an augmented low_res is given. `finite_cascade` makes a whole cascade of it with no training at all.

x, low_res (b, c, h, w); sigma, aug_sigma (b,). Sums are float64 inside; answers have the dtype of x.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from data.batch import Cond
from data.resize import downsample, upsample
from stages.config import AugConfig, BaseConfig, CondConfig, SampleConfig, SuperResConfig
from stages.diffusion.corrupt import expand_to
from stages.diffusion.denoiser import Denoiser
from stages.diffusion.samplers import Answer
from stages.kinds.base import BaseStage
from stages.kinds.super_res import SuperResStage
from stages.nets.unet_config import UNetConfig

TINY_NET = UNetConfig(widths=(8,), blocks=(1,), emb_dim=8)
NEAREST = 1e-6  # a condition without noise picks the nearest picture; so does this level, in float64


@dataclass(frozen=True, kw_only=True)
class GaussianData:
    """x0 ~ N(mean, std^2), pixels independent. mean, std (c, h, w) float64.

    A second observation low_res = x0 + low_sigma * eps' leaves every formula as it is, for given it x0 is normal again.
    """

    mean: Tensor
    std: Tensor

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """(num, c, h, w) float64 pictures."""
        return self.mean + self.std * torch.randn(num, *self.mean.shape, generator=generator, dtype=torch.float64)

    def denoise(
        self, x: Tensor, sigma: Tensor, low_res: Tensor | None = None, low_sigma: Tensor | None = None
    ) -> Tensor:
        """E[x0 | x, low_res]: mean and observations weighted by their precisions."""
        mean, var = self.given(low_res, low_sigma)
        noise = expand_to(sigma, x.double()).square()
        return ((mean * noise + x * var) / (noise + var)).to(x.dtype)

    def given(self, low_res: Tensor | None = None, low_sigma: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance of x0 once low_res is known."""
        if low_res is None or low_sigma is None:
            return self.mean, self.std.square()
        noise, var = expand_to(low_sigma, low_res.double()).square(), self.std.square()
        return (self.mean * noise + low_res * var) / (noise + var), noise * var / (noise + var)

    def path(self, x: Tensor, sigma_from: float, sigma_to: float) -> Tensor:
        """Where the probability-flow ODE takes x: (x - mean) scales with sqrt(std^2 + sigma^2), as its marginals do."""
        var = self.std.square()
        return self.mean + (x - self.mean) * ((var + sigma_to**2) / (var + sigma_from**2)).sqrt()

    def risk(self, sigma: Tensor, low_sigma: Tensor | None = None) -> Tensor:
        """(b,) mean squared error of the optimal denoiser, E |E[x0|x] - x0|^2 a pixel: the mean posterior variance."""
        precision = self.std.double() ** -2 + sigma.double()[:, None, None, None] ** -2
        if low_sigma is not None:
            precision = precision + low_sigma.double()[:, None, None, None] ** -2
        return (1 / precision).flatten(1).mean(1)


@dataclass(frozen=True, kw_only=True)
class FiniteData:
    """x0 is one of images (n, c, h, w), each as likely as another. labels (n,) int64 makes classes of them.

    low_size: side of the low-res pictures that may condition it; picture k's condition is
    upsample(downsample(images[k])).
    """

    images: Tensor
    labels: Tensor | None = None
    low_size: int | None = None

    @cached_property
    def low_res(self) -> Tensor:
        """(n, c, h, w) float64: the condition of each picture before augmentation."""
        assert self.low_size is not None
        small = downsample(self.images.double(), (self.low_size, self.low_size))
        return upsample(small, tuple(self.images.shape[-2:]))

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        cond: Cond | None = None,
        low_res: Tensor | None = None,
        aug_sigma: Tensor | None = None,
    ) -> Tensor:
        """E[x0 | x, class, low_res]: the pictures weighted by posterior probability."""
        weights = self.posterior(x, sigma, cond, low_res, aug_sigma)
        return (weights @ self.images.double().flatten(1)).reshape(x.shape).to(x.dtype)

    def posterior(
        self,
        x: Tensor,
        sigma: Tensor,
        cond: Cond | None = None,
        low_res: Tensor | None = None,
        aug_sigma: Tensor | None = None,
    ) -> Tensor:
        """(b, n) probability of each picture.

        softmax of -|x - x0|^2 / (2 sigma^2) - |low_res - condition|^2 / (2 aug_sigma^2) over the pictures of the class.
        """
        logits = log_likelihood(x, self.images, sigma)
        if low_res is not None and aug_sigma is not None:
            logits = logits + log_likelihood(low_res, self.low_res, aug_sigma.clamp(min=NEAREST))
        label = None if cond is None else cond.parts.get("label")
        if self.labels is not None and label is not None:
            other = label.value[:, None] != self.labels
            logits = logits.masked_fill(other & label.keep[:, None], -torch.inf)
        return logits.softmax(1)

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b,) which picture x shows, and (b,) the largest difference of any pixel from it."""
        which = distances(x, self.images).argmin(1)
        return which, (x.double() - self.images.double()[which]).abs().flatten(1).amax(1)


def distances(x: Tensor, images: Tensor) -> Tensor:
    """(b, n) Euclidean distances in float64, computed by difference, not by products that cancel."""
    flat = x.double().flatten(1), images.double().flatten(1)
    return torch.cdist(*flat, compute_mode="donot_use_mm_for_euclid_dist")


def log_likelihood(seen: Tensor, images: Tensor, sigma: Tensor) -> Tensor:
    """(b, n) log density of `seen` = image + sigma * eps, up to a constant a row."""
    assert sigma.shape == seen.shape[:1]
    return -((distances(seen, images) / sigma.double()[:, None]).square()) / 2


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of one call of a `FiniteStage`."""

    x: Tensor
    sigma: Tensor
    cond: Cond

    @property
    def low_res(self) -> Tensor | None:
        return self.cond.value("low_res")

    @property
    def aug_sigma(self) -> Tensor | None:
        return self.cond.value("aug")


class FiniteStage:
    """Mixed into a stage class: its config, loss, `enlarge` and sampling, with the ideal denoiser of `world`.

    `asked` keeps the arguments of every call.
    """

    world: FiniteData
    asked: list[Asked]

    def __init__(self, config: BaseConfig | SuperResConfig, world: FiniteData):
        nn.Module.__init__(self)  # type: ignore[arg-type]
        self.config, self.world, self.asked = config, world, []

    def denoise(self, x: Tensor, sigma: Tensor, cond: Cond) -> Answer:
        self.asked.append(Asked(x=x, sigma=sigma, cond=cond))
        return Answer(self.world.denoise(x, sigma, cond, cond.value("low_res"), cond.value("aug")))

    def set_precision(self, precision: str) -> None:
        """Always float64."""


class FiniteBase(FiniteStage, BaseStage):
    """p(x0 | class) over a fixed set."""


class FiniteSuperRes(FiniteStage, SuperResStage):
    """p(x0 | low_res, class) over a fixed set; `world.low_size` is config.low_res."""


def finite_stage(config: BaseConfig | SuperResConfig, images: Tensor, labels: Tensor | None = None) -> FiniteStage:
    """The ideal stage of a config whose data are downsample(images)."""
    size = (config.resolution, config.resolution)
    low_size = config.low_res if isinstance(config, SuperResConfig) else None
    world = FiniteData(images=downsample(images.double(), size), labels=labels, low_size=low_size)
    return FiniteSuperRes(config, world) if isinstance(config, SuperResConfig) else FiniteBase(config, world)


def finite_cascade(
    images: Tensor, sizes: tuple[int, ...], *, labels: Tensor | None = None, sample: SampleConfig | None = None
) -> dict[str, FiniteStage]:
    """A cascade by name, `base_8`, `sr_16`, ...: sizes ascend, the last is the side of images (n, c, h, w).

    Each stage's pictures are THE downsample of the next one's, so that one stage's finished pictures are exact
    conditions of the next.
    """
    shared = {
        "channels": images.shape[1],
        "net": TINY_NET,
        "cond": CondConfig(num_classes=0 if labels is None else int(labels.max()) + 1),
        "sample": sample or SampleConfig(),
    }
    stages: dict[str, FiniteStage] = {}
    for low, size in reversed(list(zip((None, *sizes), sizes, strict=False))):
        if low is None:
            stages[f"base_{size}"] = finite_stage(BaseConfig(resolution=size, **shared), images, labels)
        else:
            config = SuperResConfig(resolution=size, low_res=low, aug=AugConfig(max_sigma=10), **shared)
            stages[f"sr_{size}"] = finite_stage(config, images, labels)
            images = downsample(images.double(), (low, low))
    return dict(reversed(stages.items()))


@dataclass
class Counted:
    """Any `denoise(x, sigma)`, with the levels at which it was called."""

    inner: Denoiser
    sigmas: list[float] = field(default_factory=list)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.sigmas.append(sigma[0].item())
        return self.inner(x, sigma)
