"""The super-resolution stage: p(x0 | low_res, cond), trained on pictures alone: its low_res is THE downsample of x0.

In sampling low_res comes from another model and is never exactly a downsampled picture. Conditioning augmentation (Ho et al. 2021)
makes the stage robust to that: the upsampled low_res is noised at a level drawn per image, and the network gets the level.
"""

from collections.abc import Generator

import torch
from torch import Tensor

from data.batch import Batch, Cond

from ..ask import NamedAsks
from ..conditions.in_training import placed
from ..conditions.maps import PORT as MAPS
from ..conditions.maps import with_maps
from ..conditions.position import CHANNELS, positions
from ..config import SampleConfig, SuperResConfig
from ..degrade import degraded
from ..diffusion.corrupt import augment
from ..diffusion.samplers import Answer, Noise
from ..draws import Draws
from ..stage import Stage


class SuperResStage(Stage):
    """A stage conditioned on the picture of the stage below."""

    config: SuperResConfig

    def prepared(self, batch: Batch, draws: Draws, below: Tensor | None) -> tuple[Tensor, Cond]:
        """x0 and cond as in a base stage, plus the augmented low_res: THE downsample of x0, a degraded one, or `below` (b, c,
        low_res, low_res) if given."""
        x0, cond = super().prepared(batch, draws, below)
        u = draws.uniforms
        low_res = self.enlarge(
            self._shrunk(x0, draws) if below is None else self.space.mirrored(below, self.flipped(batch, u))
        )
        maps = self._maps(cond)
        x0, low_res, *beside = self._aligned_crops((x0, low_res, *maps, *self._positions(x0)), u)
        cond = with_maps(cond, *beside[: len(maps)]) if maps else cond
        cond = placed(cond, self.config.cond, beside[-1], u) if self.config.cond.position else cond
        aug_sigma = (self.config.aug.max_sigma * u["aug_sigma"].square()).to(x0)
        low_res = augment(low_res, aug_sigma, draws.noise("aug", x0.shape))
        return x0, cond.given(low_res=low_res, aug=aug_sigma)

    def condition(
        self, cond: Cond, below: Tensor | None, settings: SampleConfig, noise: Noise
    ) -> Generator[NamedAsks, list[Answer], Cond]:
        """Add the picture below, upsampled and augmented with noise of std aug_sigma."""
        yield from ()
        assert below is not None
        low_res = self.enlarge(below)
        cond = self.described(cond, tuple(low_res.shape[2:]), settings)
        level = torch.full((len(below),), settings.aug_sigma, device=below.device)
        return cond.given(low_res=augment(low_res, level, noise("aug", low_res.shape)), aug=level)

    def enlarge(self, low_res: Tensor) -> Tensor:
        """Upsample low_res (b, c, *size) by the stage's factor: the condition before augmentation."""
        *leading, height, width = low_res.shape[2:]
        return self.space.up(low_res, (*leading, height * self.config.factor, width * self.config.factor))

    def _shrunk(self, x0: Tensor, draws: Draws) -> Tensor:
        """The low_res of x0: THE downsample, degraded in a share of the images if the config says so."""
        _, *size = self.config.shape(self.config.takes)
        if not self.config.degrade.probability:
            return self.space.down(x0, tuple(size))
        return degraded(x0, (size[0], size[1]), self.config.degrade, draws)

    def _maps(self, cond: Cond) -> tuple[Tensor, ...]:
        """The maps that the stage takes, if there are any."""
        value = cond.value(MAPS)
        return () if value is None or not self.config.cond.maps else (value,)

    def _positions(self, x0: Tensor) -> tuple[Tensor, ...]:
        """The positions of the cells of x0, if the stage is told them."""
        if not self.config.cond.position:
            return ()
        return (positions(self.config.size).to(x0.device).expand(len(x0), CHANNELS, *x0.shape[2:]),)

    def _aligned_crops(self, tensors: tuple[Tensor, ...], u: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The same window of all, with its corner on the low-res grid. Cutting after resizing keeps the resize kernel's view of
        the whole picture at window edges; cutting first would train on edges that never occur in sampling."""
        factor = self.config.factor
        if self.config.crop in (0, self.config.resolution):
            return tensors
        *_, crop = self.config.shape((self.config.crop, self.config.crop))
        num_offsets = (self.config.size[-1] - crop) // factor + 1
        corners = tuple((u[name] * num_offsets).long() * factor for name in ("crop_y", "crop_x"))
        return self.space.windows(tensors, crop, corners)
