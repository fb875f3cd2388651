"""The config that all objectives share."""

from typing import Any

from ..strict import Choice


class ObjectiveConfig(Choice):
    """Base of the configs in `OBJECTIVES`. A loss may depend only on keys of its own config, because keys of `sample` may change
    on resume."""

    def build(self) -> Any:
        """Build an `Objective` without reading files."""
        return self.loaded()(self)
