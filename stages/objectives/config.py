"""The config that all objectives share."""

from typing import Any, ClassVar

from ..strict import Choice


class ObjectiveConfig(Choice):
    """Base of the configs in `OBJECTIVES`. A loss may depend only on keys of its own config, because keys of `sample` may change
    on resume. trains_variance: whether it trains the second output of a stage with `learned_variance`; the two come together."""

    trains_variance: ClassVar[bool] = False

    def build(self) -> Any:
        """Build an `Objective` without reading files."""
        return self.loaded()(self)
