"""A stage in its chain: its hosts and sampling settings here; and cutting a chain to a part of it."""

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
from stages.diffusion.control import num_resampled
from stages.guidance import GUIDE, most_rows
from stages.sample_config import unread_by
from stages.stage import Stage
from stages.unfit import BY_LOW_RES, PARTS, Unfit, impossible, unguided

from .engine.host import Host


@dataclass(frozen=True, kw_only=True)
class Link:
    """One stage of the chain: the hosts that answer its asks, the sidecar of its bundle, its sampling settings here.

    hosts: by the names that guidance and conditions use for them; OWN is the network that samples. Raises ValueError for settings
    that the stage cannot follow: an aug_sigma above what it was trained on, guidance or a sampler by what it does not have.
    """

    name: str
    hosts: Mapping[str, Host]
    sidecar: Sidecar
    settings: SampleConfig

    def __post_init__(self) -> None:
        allowed = self.contract.max_aug_sigma  # beyond it the stage gives a picture, but a wrong one
        if self.settings.aug_sigma > allowed:
            raise ValueError(
                f"stage {self.name}: aug_sigma {self.settings.aug_sigma} is above {allowed}, "
                "the largest it was trained on; choose less"
            )
        for key, reason in self._unfit():
            raise ValueError(f"stage {self.name}: {key} {getattr(self.settings, key)}: {reason}")

    def _unfit(self) -> Unfit:
        """Settings that would have no effect here, or a wrong one."""
        settings = self.settings
        guide = self.hosts.get(GUIDE)
        if settings.autoguidance_scale != 1 and guide and settings.aug_sigma > guide.stage.config.max_aug_sigma:
            most = guide.stage.config.max_aug_sigma
            yield "aug_sigma", f"above {most}, the largest its guide was trained on; choose less"
        yield from impossible(self.sidecar.config, settings)
        if settings.autoguidance_scale != 1 and not guide:
            yield (
                "autoguidance_scale",
                f"this stage has no {GUIDE} beside it (python -m cascade.guide sets one); leave it out",
            )
        if not self.is_guidable and not guide:
            for key in ("guidance_every", "guidance_rescale"):
                if getattr(settings, key) != type(settings).model_fields[key].default:
                    yield (
                        key,
                        "this stage was trained without text or classes, and has no guide beside it; leave it out",
                    )

    @property
    def contract(self) -> Contract:
        """The contract of its bundle: sizes, channels, text encoder, ..."""
        return self.sidecar.contract

    @property
    def host(self) -> Host:
        """The network that samples."""
        return self.hosts[OWN]

    @property
    def stage(self) -> Stage:
        """The stage itself; on the device meta if another process has its weights."""
        return self.host.stage

    @property
    def device(self) -> torch.device | str:
        """The device on which its sampler computes."""
        return self.host.device

    @property
    def is_guidable(self) -> bool:
        """Whether guidance_scale has an effect: the stage has a condition to drop."""
        return bool(self.sidecar.config.cond.names)

    @property
    def guided_parts(self) -> tuple[str, ...]:
        """The conditions that have guidance scales of their own: "label", "text"."""
        return self.sidecar.config.cond.names

    @property
    def rows(self) -> Mapping[str, int]:
        """The most batch rows per image of a call of each host, by its name here: with classifier-free guidance 2 of its own
        network, up to 3 where text and class are guided apart, else 1; a guide's is 1."""
        return most_rows(self.settings, self.sidecar.config.cond.names, self.hosts)

    @property
    def beside(self) -> dict[str, str]:
        """sha256 of the weights of each host except its own network, by name: its pictures depend on these, too."""
        return {name: host.sha256 for name, host in self.hosts.items() if name != OWN}

    def placed(self, place: Mapping[str, torch.device | str], device: torch.device | str) -> "Link":
        """A copy with each host on the device that `place` gives for the host's own name, else on `device`."""
        hosts = {name: replace(host, device=place.get(host.name, device)) for name, host in self.hosts.items()}
        return replace(self, hosts=hosts)

    @property
    def nfe(self) -> int:
        """Network calls per chunk, at most. A guided call counts once, since its two halves share a batch."""
        if self.settings.resample > 1:
            return num_resampled(self.settings.num_steps, self.settings.resample)
        return self.settings.queries


def with_settings(links: list[Link], settings: Mapping[str, Mapping[str, Any]]) -> list[Link]:
    """The chain with some settings changed, by stage name. Raises ValueError for the first invalid one."""
    check_names(settings, [link.name for link in links])
    changed_links = []
    for link in links:
        try:
            config = SampleConfig.model_validate(over(link.settings.model_dump(), settings.get(link.name, {})))
        except ValidationError as error:
            raise ValueError(f"settings of stage {link.name}: {first_error(error)}{hint(error)}") from None
        if config.guidance_scale not in (1, link.settings.guidance_scale) and not link.is_guidable:
            raise ValueError(
                f"settings of stage {link.name}: guidance_scale: this stage was trained without text or classes; leave it out"
            )
        for key in PARTS:
            changed = getattr(config, key) not in (None, getattr(link.settings, key))
            if changed and (reason := unguided(link.sidecar.config, key)):
                raise ValueError(f"settings of stage {link.name}: {key}: {reason}")
        for key in BY_LOW_RES:
            if getattr(config, key) and link.contract.low_res is None:
                raise ValueError(
                    f"settings of stage {link.name}: {key}: this stage enlarges no picture to agree with; leave it out"
                )
        changed_links.append(replace(link, settings=config))
    return changed_links


def hint(error: ValidationError) -> str:
    """End of an error message about an unknown setting: the nearest known one."""
    unknown = (str(each["loc"][0]) for each in error.errors() if each["type"] == "extra_forbidden")
    return "".join(nearest(key, SampleConfig.model_fields) for key in [*unknown][:1])


def over(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a stage, `before` updated with `now`. If `now` names a sampler or a grid, old options that it does not use are
    dropped; if it has a guidance_scale, the old scales of single conditions are, too: it is for all of them. Resampling takes
    Euler's steps, so it names that sampler where `now` names none."""
    if str(now.get("resample", 1)) != "1":
        now = {"sampler": "euler"} | dict(now)
    unused = unread_by(sampler=str(now.get("sampler", "")), grid=str(now.get("grid", "")))
    unused |= PARTS.keys() if "guidance_scale" in now else set()
    return {name: value for name, value in before.items() if name not in unused} | dict(now)


def check_names(settings: Collection[str], names: list[str]) -> None:
    """Raise ValueError for settings of an unknown stage."""
    for name in settings:
        if name not in names:
            raise ValueError(f"request: no stage {name!r}, there are {', '.join(names)}{nearest(name, names)}")


def cut(names: list[str], first: str, last: str, where: str) -> list[str]:
    """The names from `first` to `last`, both included; "" stands for that end of the chain. Raises ValueError."""
    for name in (first, last):
        if name and name not in names:
            raise ValueError(f"cascade {where}: no stage {name!r}, it has {', '.join(names)}{nearest(name, names)}")
    begin, end = names.index(first) if first else 0, names.index(last) + 1 if last else len(names)
    if begin >= end:
        raise ValueError(f"cascade {where}: stage {first} comes after {last}; exchange them")
    return names[begin:end]


def side_multiple(links: list[Link], resolution: int) -> int:
    """Sides must be multiples of this for every stage to accept them. They are measured at `resolution`: that of the given
    picture, or of the result."""
    shares = (Fraction(link.sidecar.config.multiple * resolution, link.contract.resolution) for link in links)
    return math.lcm(*(share.numerator for share in shares))
