"""Bundles in, events out: `Cascade.load(folder)` and `cascade.sample(request) -> Iterator[Event]`.

Each chunk of images goes through all stages before the next chunk starts, so memory is bounded by `request.batch` and the first
finished pictures come early. The noise of image k in stage s depends on (seed, k, s) alone.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch

from stages.bundle import find_bundle, load_bundle, read_sidecar

from .budget import measured, steps_within, with_steps
from .conditions import Conditions
from .engine.alone import events_of
from .engine.chunk import Painting
from .engine.host import Host, host_name
from .events import Event
from .link import Link, cut, side_multiple
from .manifest import check_chain, check_guide, read_manifest
from .plan import Plan, resolve
from .request import Request


class Cascade:
    """A chain of stages, ready to sample. If it starts with a super-resolution stage, requests must give pictures.

    device: where the networks compute. place: other devices for single networks, by the name of their host (a stage's own
    network is called like the stage).
    """

    def __init__(
        self,
        links: list[Link],
        *,
        device: torch.device | str = "cpu",
        place: Mapping[str, torch.device | str] | None = None,
        precision: str = "fp32",
        download: bool = False,
    ):
        check_chain({link.name: link.contract for link in links})
        self.links = [link.placed(place or {}, device) for link in links]
        self.device, self.precision = device, precision
        self.conditions = Conditions(links, download=download)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        first: str = "",
        last: str = "",
        device: torch.device | str = "cpu",
        place: Mapping[str, torch.device | str] | None = None,
        elsewhere: Collection[str] = (),
        precision: str = "fp32",
        download: bool = False,
    ) -> Self:
        """Load a cascade from the --out of train.py, or the one that ships. first, last: use only this part of the chain.

        elsewhere: names of hosts whose weights are in another process (`Engine(elsewhere=...)` reaches them); their samplers
        run on the CPU here. download: fetch a missing text encoder from the hub; without it nothing uses the network.
        Raises ValueError if a bundle is missing or damaged, or if two do not fit together.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        names = cut(list(manifest.stages), first, last, str(folder))
        place = place or {}
        bundles = {name: manifest.stages[name].bundles for name in names}
        host_names = [host_name(name, role) for name, roles in bundles.items() for role in roles]
        for name in (*place, *elsewhere):
            if name not in host_names:
                raise ValueError(f"cascade {folder}: no stage {name!r} to place, it has {', '.join(host_names)}")
        place = {**place, **dict.fromkeys(elsewhere, "cpu")}

        def host_of(name: str, bundle: str) -> Host:
            device_ = place.get(name, device)
            stage = load_bundle(folder / bundle, "meta" if name in elsewhere else device_, precision)
            return Host(
                name=name, stage=stage, device=device_, sha256=read_sidecar(find_bundle(folder / bundle)).sha256
            )

        sidecars = {}
        for name in names:
            bundle = find_bundle(folder / manifest.stages[name].bundle)
            if not bundle.is_dir():
                trained = [n for n in names if n in sidecars]
                remedy = (
                    f"sample up to {trained[-1]} with --until {trained[-1]}, or train it"
                    if trained
                    else "train it first"
                )
                raise ValueError(f"cascade {folder}: stage {name} has no bundle yet; {remedy}")
            sidecars[name] = read_sidecar(bundle)
            if guide := manifest.stages[name].guide:
                check_guide(name, sidecars[name], read_sidecar(find_bundle(folder / guide)), guide)
        check_chain({name: sidecar.contract for name, sidecar in sidecars.items()})
        links = [
            Link(
                name=name,
                hosts={role: host_of(host_name(name, role), bundle) for role, bundle in bundles[name].items()},
                sidecar=sidecar,
                settings=manifest.stages[name].sample,
            )
            for name, sidecar in sidecars.items()
        ]
        return cls(links, device=device, place=place, precision=precision, download=download)

    @classmethod
    def load_host(cls, folder: str | Path, name: str, *, device: torch.device | str, precision: str = "fp32") -> Host:
        """Load one network of a cascade, with none of the others' weights. name: that of its host. Raises ValueError."""
        stage = name.partition(".")[0]
        others = [other for other in read_manifest(Path(folder)).bundles if other != name]
        elsewhere = [other for other in others if other.partition(".")[0] == stage]
        model = cls.load(folder, first=stage, last=stage, device=device, elsewhere=elsewhere, precision=precision)
        return next(host for host in model.hosts if host.name == name)

    @property
    def hosts(self) -> list[Host]:
        """The hosts of all stages: the network of each, and others that it asks."""
        return [host for link in self.links for host in link.hosts.values()]

    @property
    def names(self) -> list[str]:
        """The names of its stages, in order."""
        return [link.name for link in self.links]

    def low_res_multiple(self, first: str = "") -> int:
        """Sides of a given picture that are multiples of this need no padding in any stage from `first` on."""
        links = self.links[self.names.index(first) if first else 0 :]
        low_res = links[0].contract.low_res
        assert low_res is not None
        return side_multiple(links, low_res)

    def resolve(
        self,
        request: Request,
        *,
        others: Mapping[str, Mapping[str, Any]] | None = None,
        speeds: Mapping[str, float] | None = None,
    ) -> Plan:
        """Resolve a request to a plan (`plan.resolve`). others: settings of stages outside the request. speeds: seconds of a row
        of a call by host, for a request with `seconds`; by default they are measured now. Raises ValueError."""
        plan = resolve(request, self, others=others)
        if request.seconds is None:
            return plan
        (steps,) = steps_within([plan], measured(plan) if speeds is None else speeds, request.seconds)
        return resolve(with_steps(request, steps), self, others=others)

    def painting(self, asked: Request | Plan) -> Painting:
        """The work of a request or plan, with its prompts encoded. Raises ValueError."""
        plan = asked if isinstance(asked, Plan) else self.resolve(asked)
        prompts, labels = plan.request.prompts_of(plan.wanted), plan.request.labels_of(plan.wanted)
        conds, source = self.conditions.of(prompts, self.conditions.numbers(labels)), plan.request.source
        if conds.num < len(plan.wanted):  # nothing but guidance tells the descriptions apart
            conds = conds[torch.zeros(len(plan.wanted), dtype=torch.int64)]
        shown = None
        if source is not None and source.inverted:
            shown = self.conditions.of(source.prompts, self.conditions.numbers(source.labels))
        beside = self.conditions.beside(plan.request, plan.wanted)
        return Painting(plan=plan, conds=conds, beside=beside, source_conds=shown)

    def check(self, asked: Request | Plan) -> None:
        """Raise ValueError if `sample` would; encodes the prompts, computes no picture."""
        self.painting(asked)

    def sample(self, asked: Request | Plan) -> Iterator[Event]:
        """Sample a request: its events, one chunk of at most `request.batch` images after the other.

        Computes lazily: nothing runs before the next event is requested. Raises ValueError for mistakes in the request, at the
        call; RunError during the iteration if a network gives NaN or infinity or if memory does not suffice.
        """
        work = self.painting(asked)
        return events_of(work, work.plan.request.batch, work.plan.rows)
