"""What a stage's config says about its network, whichever it is, and what others may ask of it without building one."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from ..strict import Choice

if TYPE_CHECKING:
    from .ports import Ports


class NetworkConfig(Choice):
    """Base of the configs in `NETWORKS`."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Sides must be multiples of this."""

    @property
    @abstractmethod
    def multiple_rule(self) -> str:
        """How `multiple` follows from the keys, and what makes it smaller; for errors, after "no multiple of 4 = "."""

    @property
    @abstractmethod
    def reach(self) -> int | None:
        """How many px away an input can be that decides about an output; a multiple of `multiple`. None: any."""

    @property
    def reach_rule(self) -> str:
        """Which key makes `reach` None; for errors."""
        return f"net.kind {self.kind}"

    @property
    @abstractmethod
    def attended(self) -> int | None:
        """The side in px of what self-attention takes for one place at its finest level; None without self-attention."""

    def build(self, ports: "Ports") -> Any:
        """A `Network` with random weights (torch's global generator; seed it first)."""
        return self.loaded()(self, ports)
