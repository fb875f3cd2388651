"""The config that all networks share, with what other code may need from it without building the network."""

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
        """Sides in px (or cells of x0) must be multiples of this."""

    @property
    @abstractmethod
    def multiple_rule(self) -> str:
        """How `multiple` follows from the keys and how to reduce it; for error messages, after "no multiple of 4 = "."""

    @property
    @abstractmethod
    def reach(self) -> int | None:
        """Radius of the receptive field, a multiple of `multiple`. None: unlimited."""

    @property
    def reach_rule(self) -> str:
        """The key that makes `reach` None; for error messages."""
        return f"net.kind {self.kind}"

    @property
    @abstractmethod
    def attended(self) -> int | None:
        """Side of one token of self-attention at its finest level; None without self-attention."""

    def build(self, ports: "Ports") -> Any:
        """Build a `Network` with random weights from torch's global generator; seed it first."""
        return self.loaded()(self, ports)
