"""The configs of `Denoising`, and of its importance sampling."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveInt

from ..strict import Strict, one_of
from ..texts import LATER
from .config import ObjectiveConfig
from .law_config import LAWS, LawConfig, LognormalConfig
from .weight_config import WEIGHTS, ParametrisationWeightConfig, WeightConfig

if TYPE_CHECKING:
    AnyWeight: TypeAlias = WeightConfig
    AnyLaw: TypeAlias = LawConfig
else:
    AnyWeight = one_of(WEIGHTS, default="parametrisation")
    AnyLaw = one_of(LAWS, default="lognormal")


class ImportanceConfig(Strict):
    """Importance sampling of levels in `bins` equal shares of their law (importance.py).

    floor: share of the draws that stays with the law itself, so that no weight exceeds 1 / floor. half_life: in images of a bin.
    """

    bins: Annotated[PositiveInt, Field(ge=2, le=1000)] = 16
    floor: Annotated[float, Field(gt=0, le=1)] = 0.1
    half_life: PositiveInt = 500


class WeightedConfig(ObjectiveConfig):
    """Keys of all objectives that weigh the error of x0_hat: its weight, the law of its levels, and whether levels are drawn by
    importance."""

    weight: Annotated[AnyWeight, LATER] = ParametrisationWeightConfig.defaults()
    levels: Annotated[AnyLaw, LATER] = LognormalConfig.defaults()
    importance: Annotated[ImportanceConfig | None, LATER] = None


class DenoisingConfig(WeightedConfig):
    """Denoising score matching."""

    implementation: ClassVar[str] = "stages.objectives.denoising:Denoising"
    kind: Literal["denoising"] = "denoising"
