"""The config that all networks share, with what other code may need from it without building the network."""

from abc import abstractmethod
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

from ..strict import Choice

if TYPE_CHECKING:
    from .controlnet_config import ControlNetConfig
    from .ports import Ports


class NetworkConfig(Choice):
    """Base of the configs in `NETWORKS`. controlled: the class, as module:name, of a control net beside a network of this kind; ""
    where there is none."""

    controlled: ClassVar[str] = ""

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

    def build_controlled(self, ports: "Ports", num_maps: int, frozen: "ControlNetConfig") -> Any:
        """Build a control net with random weights. num_maps: how many of the last inputs the frozen network does not have."""
        return resolve_name(self.controlled)(self, ports, num_maps, frozen)
