"""What a stage's config says about its objective, whichever it is."""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

from ..strict import Strict


class ObjectiveConfig(Strict):
    """Base of the configs in `OBJECTIVES`. A subclass has `kind`, its word there, and keys of its own: all that the loss
    depends on, for keys of `sample` may change where a run goes on.

    `objective`: where its class stands, module:name; loaded when one is built, for configs are read where torch is not.
    """

    objective: ClassVar[str]
    if TYPE_CHECKING:
        kind: str

    def build(self) -> Any:
        """An `Objective`. Reads no file."""
        return resolve_name(self.objective)(self)
