"""A stage at its place in a chain, and what follows from the place: its settings, its host, which part of the chain is used."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from pydantic import ValidationError

from data.errors import first_error, nearest
from stages.bundle import Contract, Sidecar
from stages.config import SampleConfig
from stages.diffusion.samplers import num_queries
from stages.stage import Stage

from .host import Host, Remote


@dataclass(frozen=True, kw_only=True)
class Link:
    """One stage of the chain: its network, what its bundle says, its sampling settings here, where it computes.

    remote: who has the weights, where it is not this process; `stage` is then on the device meta.
    """

    name: str
    stage: Stage
    sidecar: Sidecar
    settings: SampleConfig
    device: torch.device | str = "cpu"
    remote: Remote | None = None

    def __post_init__(self) -> None:
        allowed = self.contract.max_aug_sigma  # another aug_sigma gives a picture, but a wrong one
        if self.settings.aug_sigma > allowed:
            raise ValueError(
                f"stage {self.name}: aug_sigma {self.settings.aug_sigma} is above {allowed}, "
                "the largest it was trained on; choose less"
            )

    @property
    def contract(self) -> Contract:
        return self.sidecar.contract

    @property
    def is_conditional(self) -> bool:
        """Whether guidance does anything."""
        cond = self.sidecar.config.cond
        return bool(cond.text or cond.num_classes)

    @cached_property
    def host(self) -> Host:
        """Who answers its asks."""
        return Host(name=self.name, stage=self.stage, device=self.device, remote=self.remote)

    @property
    def rows(self) -> int:
        """Of the network's batch for an image: guidance takes two."""
        return 2 if self.is_conditional and self.settings.guidance_scale != 1 else 1

    @property
    def nfe(self) -> int:
        """Network calls; a guided call counts once, for its two halves share a batch."""
        return num_queries(self.settings.sampler, self.settings.num_steps)


def with_settings(links: list[Link], settings: Mapping[str, Mapping[str, Any]]) -> list[Link]:
    """The chain with some settings changed, by stage name. Raises ValueError about the first that cannot be."""
    check_names(settings, [link.name for link in links])
    changed = []
    for link in links:
        try:
            wanted = SampleConfig.model_validate(link.settings.model_dump() | dict(settings.get(link.name, {})))
        except ValidationError as error:
            raise ValueError(f"settings of stage {link.name}: {first_error(error)}") from None
        if wanted.guidance_scale not in (1, link.settings.guidance_scale) and not link.is_conditional:
            raise ValueError(
                f"settings of stage {link.name}: guidance_scale: this stage was trained without text or classes; leave it out"
            )
        changed.append(replace(link, settings=wanted))
    return changed


def check_names(settings: Collection[str], names: list[str]) -> None:
    """Raises ValueError for settings of a stage that is not there."""
    for name in settings:
        if name not in names:
            raise ValueError(f"request: no stage {name!r}, there are {', '.join(names)}{nearest(name, names)}")


def cut(names: list[str], first: str, last: str, where: str) -> list[str]:
    """The part of a chain from `first` to `last`, both included; "" is the end of the chain."""
    for name in (first, last):
        if name and name not in names:
            raise ValueError(f"cascade {where}: no stage {name!r}, it has {', '.join(names)}{nearest(name, names)}")
    begin, end = names.index(first) if first else 0, names.index(last) + 1 if last else len(names)
    if begin >= end:
        raise ValueError(f"cascade {where}: stage {first} comes after {last}; exchange them")
    return names[begin:end]


def side_multiple(links: list[Link], resolution: int) -> int:
    """Sides at `resolution` (of the stage's picture that the user names) must be multiples of this for every stage to work."""
    shares = (Fraction(link.sidecar.config.multiple * resolution, link.contract.resolution) for link in links)
    return math.lcm(*(share.numerator for share in shares))
