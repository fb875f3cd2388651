"""The config that all kinds of stage share, with what other code may need from it without building the stage."""

import math
from typing import TYPE_CHECKING, Annotated, Self, TypeAlias

from pydantic import PositiveInt, model_validator

from ..conditions.cond_config import CondConfig
from ..nets.config import NetworkConfig
from ..nets.controlnet_config import ControlNetConfig
from ..nets.registry import NETWORKS
from ..noise_config import NoiseConfig
from ..parametrisations.config import ParametrisationConfig
from ..parametrisations.edm_config import EDMConfig
from ..parametrisations.registry import PARAMETRISATIONS
from ..sample_config import SampleConfig
from ..spaces.config import SpaceConfig
from ..spaces.pixels_config import PixelsConfig
from ..spaces.registry import SPACES
from ..strict import Choice, one_of
from ..texts import LATER
from ..train_config import TrainConfig

if TYPE_CHECKING:
    from ..diffusion.parametrisation import Parametrisation
    from ..nets.network import Network
    from ..nets.ports import Ports
    from ..spaces.space import Size

    NetConfig: TypeAlias = NetworkConfig
    AnySpace: TypeAlias = SpaceConfig
    AnyParametrisation: TypeAlias = ParametrisationConfig
else:
    NetConfig = one_of(NETWORKS, default="unet")
    AnySpace = one_of(SPACES, default="pixels")
    AnyParametrisation = one_of(PARAMETRISATIONS, default="edm")


class StageBase(Choice):
    """Base of the configs in `KINDS`. `resolution` and `channels` are those of the stage's pictures. Sizes are (height, width) in
    px, except `size` and `shape`, which are of x0.

    learned_variance: whether the network also predicts Var(x0 | x), in as many outputs again; objective `hybrid` trains it.
    `takes`, `factor` and `max_aug_sigma` describe the relation to the stage below, whatever the kind. controlnet: the frozen bundle
    whose encoder is copied, and the copy alone is trained, to follow maps.
    """

    resolution: PositiveInt
    channels: PositiveInt = 3
    space: Annotated[AnySpace, LATER] = PixelsConfig.defaults()
    net: NetConfig
    learned_variance: Annotated[bool, LATER] = False
    cond: CondConfig = CondConfig.defaults()
    noise: NoiseConfig = NoiseConfig.defaults()
    parametrisation: Annotated[AnyParametrisation, LATER] = EDMConfig.defaults()
    train: TrainConfig = TrainConfig.defaults()
    sample: SampleConfig = SampleConfig.defaults()
    controlnet: Annotated[ControlNetConfig | None, LATER] = None

    @property
    def multiple(self) -> int:
        """Sides of pictures must be multiples of this."""
        return math.lcm(self.net.multiple, self.parametrisation.multiple) * self.space.scale

    @property
    def reach(self) -> int | None:
        """How far from a cell of x0_hat the cells of x and low_res lie that decide about it, rounded up so that windows which
        begin so far away begin on a multiple of `multiple`. None: anywhere."""
        if self.net.reach is None:
            return None
        cells = self.multiple // self.space.scale
        return -(-max(self.net.reach, self.parametrisation.reach) // cells) * cells

    @property
    def gives(self) -> "Size":
        """Size of the stage's pictures."""
        return (self.resolution, self.resolution)

    @property
    def takes(self) -> "Size | None":
        """Size of the pictures from the stage below, or None for a stage that starts from noise alone."""
        return None

    def shape(self, size: "Size") -> tuple[int, ...]:
        """Shape (c, *size) of the x0 of a picture of `size`, along the axes of the stage's space."""
        return self.space.shape(self.channels, size)

    @property
    def size(self) -> "Size":
        """Sides of the stage's x0, without channels."""
        return self.shape(self.gives)[1:]

    @property
    def factor(self) -> int:
        """Upsampling factor over the stage below; 1 without one."""
        return 1

    @property
    def train_size(self) -> int:
        """Side in px of the network's input in training."""
        return self.resolution

    @property
    def max_aug_sigma(self) -> float:
        """Largest aug_sigma that the stage was trained on."""
        return 0.0

    def stand_in(self) -> Self:
        """The same stage, with numbers of white data where the parametrisation's are still to be measured: it costs the same."""
        white = self.parametrisation.stand_in(takes_picture=self.takes is not None)
        return self.model_copy(update={"parametrisation": white})

    @property
    def preconditioning(self) -> "Parametrisation":
        """The parametrisation, built for the stage's data."""
        return self.parametrisation.build(sigma_data=self.noise.sigma_data, low_res_sigma=None)

    @property
    def ports(self) -> "Ports":
        """Inputs and outputs of the network."""
        from ..conditions.original_size import NUMBERS as SIDES
        from ..conditions.original_size import PORT as SIZE
        from ..conditions.position import CHANNELS
        from ..nets.ports import Ports
        from ..warp import NUMBERS, PORT

        text, (channels, *_), maps = self.cond.text, self.shape(self.gives), self.cond.maps
        return Ports(
            inputs=channels + (maps.channels + 1 if maps else 0) + (CHANNELS + 1 if self.cond.position else 0),
            outputs=channels * (2 if self.learned_variance else 1),
            vectors={PORT: NUMBERS} if self.train.augment.probability else {},
            classes={"label": self.cond.num_classes} if self.cond.num_classes else {},
            tokens={"text": text.dim} if text else {},
            numbers={SIZE: SIDES} if self.cond.original_size else {},
        )

    def network(self) -> "Network":
        """Build the network with random weights from torch's global generator; seed it first."""
        if self.controlnet is None or self.cond.maps is None:
            return self.net.build(self.ports)
        return self.net.build_controlled(self.ports, self.cond.maps.channels + 1, self.controlnet)

    @model_validator(mode="after")
    def _controlled(self) -> Self:
        if self.controlnet is None:
            return self
        if not self.net.controlled:
            raise ValueError(
                f"controlnet: net.kind {self.net.kind} has no encoder to copy; set net.kind to unet, or leave controlnet out"
            )
        if self.cond.maps is None:
            raise ValueError("controlnet: there is nothing to follow; give cond.maps, or leave controlnet out")
        return self

    @model_validator(mode="after")
    def _parametrised(self) -> Self:
        self.parametrisation.check(channels=self.shape(self.gives)[0], takes_picture=self.takes is not None)
        return self

    @model_validator(mode="after")
    def _trained_variance(self) -> Self:
        objective = self.train.objective
        if self.learned_variance and not objective.trains_variance:
            raise ValueError(
                f"train.objective.kind {objective.kind} trains no variance, and learned_variance is true; set the kind to hybrid, "
                "or learned_variance to false"
            )
        if objective.trains_variance and not self.learned_variance:
            raise ValueError(
                f"train.objective.kind {objective.kind} trains a variance, and the network predicts none; set learned_variance to "
                "true, or the kind to denoising"
            )
        return self

    @model_validator(mode="after")
    def _flat_maps(self) -> Self:
        if self.cond.maps and len(self.size) != 2:
            raise ValueError(
                f"cond.maps are pictures, x0 of space {self.space.kind} has {len(self.size)} axes; leave them out"
            )
        return self

    @model_validator(mode="after")
    def _position_of_crops(self) -> Self:
        if self.cond.position and self.train_size == self.resolution:
            raise ValueError(
                "cond.position says where in its picture a training crop lies, and this stage trains on whole pictures; "
                "set crop of a super_res stage below its resolution, or leave it out"
            )
        if self.cond.position and len(self.size) != 2:
            raise ValueError(
                f"cond.position is for x0 of rows and columns, that of space {self.space.kind} has {len(self.size)} axes; "
                "leave it out"
            )
        return self

    def _check_multiple(self, name: str, size: int) -> None:
        if size % (self.parametrisation.multiple * self.space.scale):
            rule = f"{self.parametrisation.multiple} = {self.parametrisation.multiple_rule}"
            raise ValueError(f"{name} {size} is no multiple of {rule}")
        if size % self.multiple:
            rule, scale = f"{self.net.multiple} = {self.net.multiple_rule}", self.space.scale
            cell_size = f"{self.multiple}, {scale} px a cell of space {self.space.kind} times " if scale > 1 else ""
            raise ValueError(f"{name} {size} is no multiple of {cell_size}{rule}")
