"""A stage at its place in a chain, and what follows from the place: its settings, its hosts, which part of the chain is used."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from pydantic import ValidationError

from data.errors import first_error, nearest
from stages.ask import OWN
from stages.bundle import Contract, Sidecar
from stages.config import SampleConfig
from stages.diffusion.samplers import SAMPLERS, all_options, num_queries
from stages.guidance import guidance_kind
from stages.stage import Stage

from .engine.host import Host


@dataclass(frozen=True, kw_only=True)
class Link:
    """One stage of the chain: who answers what it asks, what its bundle says, its sampling settings here.

    hosts: by the names that guidance and conditions have for them; OWN is the network that samples.
    """

    name: str
    hosts: Mapping[str, Host]
    sidecar: Sidecar
    settings: SampleConfig

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
    def host(self) -> Host:
        """The network that samples."""
        return self.hosts[OWN]

    @property
    def stage(self) -> Stage:
        return self.host.stage

    @property
    def device(self) -> torch.device | str:
        """Of its sampler."""
        return self.host.device

    @property
    def is_guidable(self) -> bool:
        """Whether guidance does anything."""
        return bool(self.sidecar.config.cond.names) or not guidance_kind(self.hosts).drops

    @property
    def rows(self) -> Mapping[str, int]:
        """Of the batch of each host for an image, by its name here: guidance takes two, or another host."""
        is_guided = self.is_guidable and self.settings.guidance_scale != 1
        return guidance_kind(self.hosts).rows if is_guided else {OWN: 1}

    @property
    def beside(self) -> dict[str, str]:
        """The sha256 of each host but its own network, by its name here: its pictures depend on them, too."""
        return {name: host.sha256 for name, host in self.hosts.items() if name != OWN}

    def placed(self, place: Mapping[str, torch.device | str], device: torch.device | str) -> "Link":
        """The same with its hosts on the devices that `place` says, by their own names, else on `device`."""
        hosts = {name: replace(host, device=place.get(host.name, device)) for name, host in self.hosts.items()}
        return replace(self, hosts=hosts)

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
            wanted = SampleConfig.model_validate(over(link.settings.model_dump(), settings.get(link.name, {})))
        except ValidationError as error:
            raise ValueError(f"settings of stage {link.name}: {first_error(error)}") from None
        if wanted.guidance_scale not in (1, link.settings.guidance_scale) and not link.is_guidable:
            raise ValueError(
                f"settings of stage {link.name}: guidance_scale: this stage was trained without text or classes; leave it out"
            )
        changed.append(replace(link, settings=wanted))
    return changed


def over(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a stage with some said anew. Where another sampler is said, options that it does not read go."""
    kind = SAMPLERS.get(str(now.get("sampler")))
    unread = all_options().keys() - kind.options.keys() if kind else set()
    return {name: value for name, value in before.items() if name not in unread} | dict(now)


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
