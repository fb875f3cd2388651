"""What a stage's config says about its objective, whichever it is."""

from typing import Any

from ..strict import Choice


class ObjectiveConfig(Choice):
    """Base of the configs in `OBJECTIVES`. Keys of a subclass are all that its loss depends on, for keys of `sample` may change
    where a run goes on."""

    def build(self) -> Any:
        """An `Objective`. Reads no file."""
        return self.loaded()(self)
