"""Who answers asks: a network on a device here, or in another process.

A stage of a chain has its own network (OWN) and may have others by name: a guide, a decoder. Statistics, devices and turns belong
to hosts.
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
"""Answers asks in calls of at most so many rows, in another process. Raises ConnectionError where that process was lost."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """name: of all hosts with these weights, one on each device. remote: who has the weights, where it is not this process; then
    `stage` is on the device meta. sha256: of the weights in its bundle, where it has one."""

    name: str
    stage: Stage
    device: torch.device | str = "cpu"
    remote: Remote | None = None
    sha256: str = ""

    @property
    def area(self) -> int:
        """Of its own x0: the product of its sides."""
        return math.prod(self.stage.config.size)

    def answer(self, asks: list[Ask], *, batch: int, buckets: bool = False) -> list[Answer]:
        """The answer to each ask, all of one make. They are there when it comes back: its time and its failures are the call's."""
        if self.remote:
            return self.remote(asks, batch)
        answers = answer(self.stage, asks, batch=batch, buckets=buckets, device=self.device)
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)
        return answers


Asks = list[tuple[Host, Ask]]
"""What is asked at once; a chunk goes on when all of it is answered."""


def addressed(asks: NamedAsks, hosts: Mapping[str, Host]) -> Asks:
    """To the hosts that the names stand for."""
    return [(hosts[name], ask) for name, ask in asks]


def host_name(stage: str, name: str) -> str:
    """Of all hosts with the weights that a stage calls `name`: its own network is called as it is."""
    return stage if name == OWN else f"{stage}.{name}"


def own_host(stage_name: str, stage: Stage, device: torch.device | str = "cpu") -> dict[str, Host]:
    """The hosts of a stage with nothing beside its network."""
    return {OWN: Host(name=host_name(stage_name, OWN), stage=stage, device=device)}
