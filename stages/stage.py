"""Stage: a denoiser with a training loss. A network in a space, under a parametrisation, with conditions and an objective."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from data.batch import Batch, Cond

from .ask import NamedAsks
from .conditions.in_training import dropped, noisy_text
from .conditions.maps import PORT as MAPS
from .conditions.maps import planes, with_maps
from .conditions.original_size import PORT as SIZE
from .conditions.original_size import read, with_sides
from .conditions.position import CHANNELS, positions, with_positions
from .conditions.position import PORT as POSITION
from .config import SampleConfig, StageConfig
from .diffusion.parametrisation import Parametrisation
from .diffusion.samplers import Answer, Noise
from .diffusion.variance import WithVariance
from .draws import Draws
from .losses import Losses
from .nets.network import Network
from .objectives.denoising import DENOISING
from .objectives.objective import Objective
from .spaces.pixels_config import PixelsConfig
from .spaces.space import Size, Space
from .warp import NUMBERS, PORT, drawn, warped

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stage(nn.Module):
    """`forward(batch, seed)` computes the loss, `denoise` answers a query. Subclasses define the conditions of each kind of
    stage."""

    def __init__(self, config: StageConfig):
        super().__init__()
        self.config = config
        self.net: Any = config.network()

    @property
    def network(self) -> Network:
        """The network."""
        return self.net

    @property
    def space(self) -> Space:
        """The space of x0."""
        return self.config.space.build()

    @property
    def parametrisation(self) -> Parametrisation:
        """How the network's output becomes x0_hat, and its variance if the stage predicts one."""
        own = self.config.preconditioning
        return WithVariance(inner=own) if self.config.learned_variance else own

    def set_precision(self, precision: str) -> None:
        """Set the dtype in which the network computes (fp32, bf16, fp16); its parameters stay float32."""
        self.net.compute_dtype = PRECISIONS[precision]

    def denoise(self, x: Tensor, sigma: Tensor, cond: Cond) -> Answer:
        """Estimate x0_hat (b, c, *size) of x at sigma (b,). cond: with an augmented low_res at x's size and its aug (b,) if the
        stage takes a picture; with maps and position at x's size if it takes those and they are not dropped."""
        low_res, aug_sigma = cond.value("low_res"), cond.value("aug")
        inputs = self.parametrisation.inputs(x, sigma, low_res, aug_sigma)
        net_cond = cond.without("low_res", "aug") if low_res is not None else cond
        net_cond = net_cond if inputs.aug is None else net_cond.given(aug=inputs.aug)
        maps = [planes(cond.parts.get(MAPS), x, self.config.cond.maps.channels)] if self.config.cond.maps else []
        place = [planes(cond.parts.get(POSITION), x, CHANNELS)] if self.config.cond.position else []
        last = place + maps if self.config.controlnet else maps + place  # a frozen network has all but the maps
        F = self.net(torch.cat([inputs.x, *last], dim=1), inputs.noise, net_cond)
        return self.parametrisation.estimate(F, x, sigma, low_res, aug_sigma)

    def forward(
        self, batch: Batch, seed: int, below: Tensor | None = None, objective: Objective[Any] = DENOISING
    ) -> Losses:
        """Loss of a batch under an objective. below: in validation, another stage's version of low_res."""
        draws = Draws(batch, seed)
        x0, cond = self.prepared(batch, draws, below)
        levels = objective.levels(self, draws.uniforms["sigma"]).to(x0)
        per_image = objective.loss(self, x0, cond, levels, draws)
        return Losses(loss=per_image.mean(), per_image=per_image.detach(), sigma=torch.clone(levels.sigma))

    def condition(
        self, cond: Cond, below: Tensor | None, settings: SampleConfig, noise: Noise
    ) -> Generator[NamedAsks, list[Answer], Cond]:
        """Cond of the stage in sampling, from the description of the pictures and those of the stage below, `below` (b, c,
        *takes) or any other size. A coroutine like a sampler: it may yield asks to hosts, and is sent their answers."""
        yield from ()
        return self.described(cond, self.config.size, settings)

    def prepared(self, batch: Batch, draws: Draws, below: Tensor | None) -> tuple[Tensor, Cond]:
        """x0 and cond of a training batch, with random mirroring and dropout of conditions; in training mode also with the warp,
        unless `below` shows the pictures without it, and with noise on text features."""
        u, config = draws.uniforms, self.config
        flipped, cond = self.flipped(batch, u), dropped(self.sized(batch.cond), config.cond, u)
        if self.training and config.cond.text and config.cond.text.noise and "text" in cond.parts:
            eps = draws.noise("text", cond.parts["text"].value.shape)
            cond = noisy_text(cond, config.cond.text.noise, eps)
        if not config.train.augment.probability:
            return self.space.read(batch.image, config.size, flipped), self.mapped(cond, config.size, flipped)
        warp = drawn(config.train.augment, u) if self.training and below is None else torch.zeros(len(batch), NUMBERS)
        x0 = self.space.read(warped(batch.image, warp, config.train.augment, flipped), config.size, flipped)
        return x0, self.mapped(cond, config.size, flipped, warp).given(**{PORT: warp.to(x0.device)})

    def mapped(self, cond: Cond, size: Size, flipped: Tensor | None = None, warp: Tensor | None = None) -> Cond:
        """Cond whose maps, as stored (b, c, h, w) uint8, are in [-1, 1] at `size`, by THE downsample, after mirroring and warp; any
        other maps, and conds of stages that take none, stay as they are."""
        part = cond.parts.get(MAPS)
        if part is None or not self.config.cond.maps or part.value.dtype != torch.uint8:
            return cond
        stored = part.value if warp is None else warped(part.value, warp, self.config.train.augment, flipped)
        return with_maps(cond, PixelsConfig.defaults().build().read(stored, size, flipped))

    def described(self, cond: Cond, size: Size, settings: SampleConfig) -> Cond:
        """Cond in sampling at `size` of x0, whose maps, original size and position are as the network reads them. Without
        the last two: the size of the settings, else the stage's own, and the positions of a whole picture."""
        if self.config.cond.original_size and (settings.original_size is not None or SIZE not in cond.parts):
            cond = with_sides(cond, settings.original_size or self.config.gives)
        if self.config.cond.position and POSITION not in cond.parts:
            cond = with_positions(cond, positions(size))
        return self.controlled(self.sized(self.mapped(cond, size)), settings)

    def sized(self, cond: Cond) -> Cond:
        """Cond whose original sizes, as stored int64 (b, 2) in px, are as the network reads them."""
        part = cond.parts.get(SIZE)
        if part is None or not self.config.cond.original_size or part.value.dtype != torch.int64:
            return cond
        return replace(cond, parts={**cond.parts, SIZE: replace(part, value=read(part.value, self.config.resolution))})

    def controlled(self, cond: Cond, settings: SampleConfig) -> Cond:
        """Cond with the strength of the control net, if the stage has one and there are maps."""
        if self.config.controlnet is None or (part := cond.parts.get(MAPS)) is None:
            return cond
        return cond.given(control=torch.full((len(cond),), settings.control_scale, device=part.keep.device))

    def flipped(self, batch: Batch, u: dict[str, Tensor]) -> Tensor | None:
        """Which images (b,) are mirrored: half of them if the config says `flip`, else None."""
        return (u["flip"] < 0.5).to(batch.image.device) if self.config.train.flip else None
