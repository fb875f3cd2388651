"""The configs of the weights of |x0_hat - x0|^2, by their name in the YAML. Add a new one here."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from ..strict import Choice, NonNegative, PositiveFloat


class WeightConfig(Choice):
    """Base of the configs in `WEIGHTS`."""

    implementation: ClassVar[str] = "stages.objectives.weights:OfLevel"
    function: ClassVar[str] = ""

    def build(self) -> Any:
        """Build a `Weight`."""
        return self.loaded()(self)


class ParametrisationWeightConfig(WeightConfig):
    """The weight that makes the expected loss at the start equal at all levels: EDM's, generalised to two observations."""

    implementation: ClassVar[str] = "stages.objectives.weights:OfParametrisation"
    kind: Literal["parametrisation"] = "parametrisation"


class EpsWeightConfig(WeightConfig):
    """The loss on eps."""

    function: ClassVar[str] = "eps"
    kind: Literal["eps"] = "eps"


class X0WeightConfig(WeightConfig):
    """The loss on x0."""

    function: ClassVar[str] = "x0"
    kind: Literal["x0"] = "x0"


class VWeightConfig(WeightConfig):
    """The loss on v."""

    function: ClassVar[str] = "v"
    kind: Literal["v"] = "v"


class FlowWeightConfig(WeightConfig):
    """The loss on the velocity of a flow."""

    function: ClassVar[str] = "flow"
    kind: Literal["flow"] = "flow"


class EDMWeightConfig(WeightConfig):
    """EDM's weight of x alone, with the stage's sigma_data; on a base stage it is the default."""

    implementation: ClassVar[str] = "stages.objectives.weights:OfEDM"
    kind: Literal["edm"] = "edm"


class MinSNRWeightConfig(WeightConfig):
    """min(snr, gamma)."""

    function: ClassVar[str] = "min_snr"
    kind: Literal["min_snr"] = "min_snr"
    gamma: PositiveFloat = 5.0


class SoftMinSNRWeightConfig(WeightConfig):
    """1 / (sigma^2 + 1/gamma)."""

    function: ClassVar[str] = "soft_min_snr"
    kind: Literal["soft_min_snr"] = "soft_min_snr"
    gamma: PositiveFloat = 4.0


class P2WeightConfig(WeightConfig):
    """snr / (k + snr)^gamma."""

    function: ClassVar[str] = "p2"
    kind: Literal["p2"] = "p2"
    gamma: NonNegative = 1.0
    k: PositiveFloat = 1.0


class SigmoidWeightConfig(WeightConfig):
    """The eps weight times sigmoid(bias - log snr)."""

    function: ClassVar[str] = "sigmoid"
    kind: Literal["sigmoid"] = "sigmoid"
    bias: Annotated[float, Field(ge=-20, le=20)] = 2.0


class UncertaintyWeightConfig(WeightConfig):
    """1 / E[loss | sigma], learned on the run in `bins` equal shares of the levels, with a `half_life` in images of a bin."""

    implementation: ClassVar[str] = "stages.objectives.weights:Uncertainty"
    kind: Literal["uncertainty"] = "uncertainty"
    bins: Annotated[PositiveInt, Field(ge=2, le=1000)] = 16
    half_life: PositiveInt = 500


WEIGHTS: dict[str, type[WeightConfig]] = {
    "parametrisation": ParametrisationWeightConfig,
    "eps": EpsWeightConfig,
    "x0": X0WeightConfig,
    "v": VWeightConfig,
    "flow": FlowWeightConfig,
    "edm": EDMWeightConfig,
    "min_snr": MinSNRWeightConfig,
    "soft_min_snr": SoftMinSNRWeightConfig,
    "p2": P2WeightConfig,
    "sigmoid": SigmoidWeightConfig,
    "uncertainty": UncertaintyWeightConfig,
}
