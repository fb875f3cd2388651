"""A host answers asks: a network on a device of this process, or in another process.

A stage of a chain has its own network (OWN) and may have others by name, for instance a guide or a decoder. Statistics, devices and
turns belong to hosts.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from stages.ask import OWN, Ask, NamedAsks
from stages.diffusion.samplers import Answer
from stages.sampling import answer
from stages.stage import Stage

Remote = Callable[[list[Ask], int], list[Answer]]
"""Answers asks in another process, in calls of at most so many rows. Raises ConnectionError if that process was lost."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """A network that answers asks. name: shared by hosts with the same weights on other devices. remote: reaches the process that
    has the weights, if it is not this one; `stage` is then on the device meta. sha256: of its bundle's weights, if known."""

    name: str
    stage: Stage
    device: torch.device | str = "cpu"
    remote: Remote | None = None
    sha256: str = ""

    @property
    def area(self) -> int:
        """Area of its own x0: the product of its sides, in cells."""
        return math.prod(self.stage.config.size)

    def answer(self, asks: list[Ask], *, batch: int, buckets: bool = False) -> list[Answer]:
        """Answer asks of one make. Waits for the device, so the elapsed time and any failure belong to this call."""
        if self.remote:
            return self.remote(asks, batch)
        answers = answer(self.stage, asks, batch=batch, buckets=buckets, device=self.device)
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)
        return answers


Asks = list[tuple[Host, Ask]]
"""The asks of one step of a chunk with their hosts; the chunk continues when all are answered."""


def addressed(asks: NamedAsks, hosts: Mapping[str, Host]) -> Asks:
    """Replace the names of hosts by the hosts."""
    return [(hosts[name], ask) for name, ask in asks]


def host_name(stage: str, name: str) -> str:
    """Name of the host that a stage calls `name`: the stage's own name for its own network, else STAGE.NAME."""
    return stage if name == OWN else f"{stage}.{name}"


def own_host(stage_name: str, stage: Stage, device: torch.device | str = "cpu") -> dict[str, Host]:
    """The hosts of a stage that has only its own network."""
    return {OWN: Host(name=host_name(stage_name, OWN), stage=stage, device=device)}
