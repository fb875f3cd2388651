"""Bundles in, events out: `Cascade.load(folder)` and `cascade.sample(request) -> Iterator[Event]`.

Each chunk of images runs through all stages before the next chunk starts, so memory is bounded by `request.batch` and the first
finished pictures come early. The noise of image k in stage s is a function of (seed, k, s) alone.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from pydantic import ValidationError
from torch import Tensor

from data.batch import Cond, to_float, to_uint8
from stages.bundle import Sidecar, find_bundle, first_error, load_bundle, read_sidecar
from stages.config import SampleConfig
from stages.diffusion.samplers import num_queries
from stages.sampling import Given, give_low_res, guided, image_noise, start
from stages.stage import Stage
from stages.super_res import SuperResStage

from .config import nearest
from .events import Event, Finished, Preview, StageFinished, StageStarted
from .manifest import check_chain, read_manifest
from .request import Request


@dataclass(frozen=True, kw_only=True)
class Link:
    """One stage of the chain: its network, what its bundle says, its sampling settings here."""

    name: str
    stage: Stage
    sidecar: Sidecar
    settings: SampleConfig


class Cascade:
    """Stages in a chain, ready to sample. `links` may start with a super-resolution stage: then pictures must be given."""

    def __init__(self, links: list[Link], *, text_encoder: str | None = None, device: torch.device | str = "cpu"):
        check_chain({link.name: link.sidecar.contract for link in links})
        self.links, self.text_encoder, self.device = links, text_encoder, device
        for link in links:
            check_aug(link.name, link.settings, link.sidecar)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        first: str = "",
        last: str = "",
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> Self:
        """The cascade in a folder: the --out of train.py, or what ships with the project. first, last: names to cut the chain.

        Raises ValueError where a bundle is missing or damaged, or two do not fit.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        names = cut(list(manifest.stages), first, last, str(folder))
        sidecars = {}
        for name in names:
            bundle = find_bundle(folder / manifest.stages[name].bundle)
            if not bundle.is_dir():
                trained = [n for n in names if n in sidecars]
                fix = (
                    f"sample up to {trained[-1]} with --until {trained[-1]}, or train it"
                    if trained
                    else "train it first"
                )
                raise ValueError(f"cascade {folder}: stage {name} has no bundle yet; {fix}")
            sidecars[name] = read_sidecar(bundle)
        check_chain({name: sidecar.contract for name, sidecar in sidecars.items()})
        links = [
            Link(
                name=name,
                stage=load_bundle(folder / manifest.stages[name].bundle, device, precision),
                sidecar=sidecar,
                settings=manifest.stages[name].sample,
            )
            for name, sidecar in sidecars.items()
        ]
        text = next((s.config.cond.text.encoder for s in sidecars.values() if s.config.cond.text), None)
        return cls(links, text_encoder=text, device=device)

    @property
    def low_res_multiple(self) -> int:
        """Sides of a picture given to the first stage must be multiples of this."""
        first = self.links[0].sidecar.contract.low_res
        assert first is not None
        units = [(link.sidecar.config.multiple, link.sidecar.contract.resolution // first) for link in self.links]
        return math.lcm(*(unit // math.gcd(unit, scale) for unit, scale in units))

    @torch.inference_mode()
    def sample(self, request: Request) -> Iterator[Event]:
        """The events of a request. Everything the user can have got wrong is told before the first one."""
        links = self.with_settings(request)
        conds = self.conditions(request)
        sizes = self.sizes(request)
        return self._events(request, links, conds, sizes)

    def with_settings(self, request: Request) -> list[Link]:
        """The chain with the request's settings, checked."""
        for name in request.settings:
            if name not in (names := [link.name for link in self.links]):
                raise ValueError(f"request: no stage {name!r}, there are {', '.join(names)}{nearest(name, names)}")
        changed = []
        for link in self.links:
            try:
                settings = SampleConfig.model_validate(
                    link.settings.model_dump() | dict(request.settings.get(link.name, {}))
                )
            except ValidationError as error:
                raise ValueError(f"settings of stage {link.name}: {first_error(error)}") from None
            check_aug(link.name, settings, link.sidecar)
            changed.append(Link(name=link.name, stage=link.stage, sidecar=link.sidecar, settings=settings))
        return changed

    def conditions(self, request: Request) -> Cond:
        """One row for each place of the request, on the device."""
        first = self.links[0].sidecar.config.cond
        takes_text = any(link.sidecar.config.cond.text for link in self.links)
        takes_label = any(link.sidecar.config.cond.num_classes for link in self.links)
        if request.prompts and not takes_text:
            other = "; it takes class labels (--label)" if takes_label else "; it is unconditional"
            raise ValueError(f"request: a prompt, but this cascade takes no text{other}")
        if request.labels and not takes_label:
            raise ValueError(
                "request: a class label, but this cascade takes none" + ("; it takes a prompt" if takes_text else "")
            )
        cond = Cond.empty(request.places)
        if request.prompts:
            text, mask = self._encode(request.prompts)
            cond = Cond(keep=torch.ones(len(text), dtype=torch.bool), text=text, text_mask=mask)
        if request.labels:
            for label in request.labels:
                if not 0 <= label < first.num_classes:
                    raise ValueError(f"request: class {label}; 0 to {first.num_classes - 1} are allowed")
            cond = Cond(keep=torch.ones(len(request.labels), dtype=torch.bool), label=torch.tensor(request.labels))
        if len(cond) == 1 and request.places > 1:
            cond = cond[torch.zeros(request.places, dtype=torch.int64)]
        if len(cond) != request.places:
            raise ValueError(
                f"request: {len(cond)} prompts or labels for {request.places} pictures; give one, or one for each"
            )
        return cond.to(self.device)

    def _encode(self, prompts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        from data.text import pad_text

        tokens = max(link.sidecar.config.cond.text.tokens for link in self.links if link.sidecar.config.cond.text)
        return pad_text(self._encoder.encode(list(prompts)), tokens)

    @cached_property
    def _encoder(self):
        """The frozen text encoder, loaded at the first prompt; refused if it is not the one of training."""
        from data.text import TextEncoder

        assert self.text_encoder
        encoder = TextEncoder.load(self.text_encoder)
        wanted = next(link.sidecar.contract.text_encoder for link in self.links if link.sidecar.contract.text_encoder)
        if encoder.id != wanted:
            raise ValueError(
                f"text encoder {self.text_encoder} is {encoder.id} here, the cascade was trained with {wanted}; install that one"
            )
        return encoder

    def sizes(self, request: Request) -> list[tuple[int, int]]:
        """(height, width) of each stage's pictures. Raises ValueError where a stage cannot make them."""
        chain = [link.sidecar.contract for link in self.links]
        if request.low_res is not None:
            if chain[0].low_res is None:
                raise ValueError(
                    f"request: a picture, but the chain starts with {self.links[0].name}, a base stage; start at a later stage"
                )
            numerator, denominator = tuple(request.low_res.shape[-2:]), chain[0].low_res
        else:
            if chain[0].low_res is not None:
                raise ValueError(
                    f"request: the chain starts with {self.links[0].name}, a super-resolution stage; give a picture"
                )
            numerator, denominator = request.size or (chain[-1].resolution,) * 2, chain[-1].resolution
        sizes = []
        for link, contract in zip(self.links, chain, strict=True):
            scaled = [side * contract.resolution / denominator for side in numerator]
            unit = link.sidecar.config.multiple
            if any(side % unit or side < unit for side in scaled):
                step = max(unit * denominator // contract.resolution, 1)
                raise ValueError(
                    f"request: size {numerator[0]}x{numerator[1]} gives stage {link.name} {scaled[0]:g}x{scaled[1]:g} px, "
                    f"no multiple of {unit}; choose multiples of {step}"
                )
            sizes.append((int(scaled[0]), int(scaled[1])))
        return sizes

    def _events(
        self, request: Request, links: list[Link], conds: Cond, sizes: list[tuple[int, int]]
    ) -> Iterator[Event]:
        calls = 0
        for begin in range(0, request.total, request.batch):
            index = tuple(range(begin, min(begin + request.batch, request.total)))
            places = torch.tensor([request.place(image) for image in index])
            cond = conds[places.to(self.device)]
            pictures = None if request.low_res is None else to_float(request.low_res[places]).to(self.device)
            for link, size in zip(links, sizes, strict=True):
                pictures = yield from self._stage(request, link, index, cond, size, pictures)
                yield StageFinished(
                    stage=link.name, index=index, images=to_uint8(pictures).cpu(), last=link is links[-1]
                )
                calls += nfe(link)
        yield Finished(num=request.total, nfe=calls)

    @torch.inference_mode()
    def _stage(
        self,
        request: Request,
        link: Link,
        index: tuple[int, ...],
        cond: Cond,
        size: tuple[int, int],
        low_res: Tensor | None,
    ) -> Generator[Event, None, Tensor]:
        """One stage for one chunk; returns its pictures (b, c, h, w) in [-1, 1]."""
        shape = (link.sidecar.contract.channels, *size)
        rows = torch.tensor(index)
        noise = image_noise(link.name, request.seed, rows, "start", shape, self.device)
        given = Given(cond=cond)
        if low_res is not None:
            assert isinstance(link.stage, SuperResStage)
            aug = image_noise(link.name, request.seed, rows, "aug", shape, self.device)
            given = give_low_res(link.stage, cond, low_res, link.settings.aug_sigma, aug)
        total = nfe(link)
        yield StageStarted(stage=link.name, index=index, nfe=total)
        denoise, sampler = guided(link.stage, link.settings, given), start(link.settings, noise, given)
        query = next(sampler)
        step = 0
        while True:
            x0_hat = denoise(query.x, query.sigma)
            step += 1
            if not torch.isfinite(x0_hat).all():
                raise RuntimeError(
                    f"stage {link.name}: NaN or infinity in x0_hat at call {step} of {total}; try --precision fp32"
                )
            yield Preview(stage=link.name, index=index, step=step, nfe=total, x0_hat=x0_hat)
            try:
                query = sampler.send(x0_hat)
            except StopIteration as done:
                return done.value.clamp(-1, 1)


def nfe(link: Link) -> int:
    """Network calls of a stage; a guided call counts once, for its two halves share a batch."""
    return num_queries(link.settings.sampler, link.settings.num_steps)


def cut(names: list[str], first: str, last: str, where: str) -> list[str]:
    """The part of a chain from `first` to `last`, both included; "" is the end of the chain."""
    for name in (first, last):
        if name and name not in names:
            raise ValueError(f"cascade {where}: no stage {name!r}, it has {', '.join(names)}{nearest(name, names)}")
    begin, end = names.index(first) if first else 0, names.index(last) + 1 if last else len(names)
    if begin >= end:
        raise ValueError(f"cascade {where}: stage {first} comes after {last}; exchange them")
    return names[begin:end]


def check_aug(name: str, settings: SampleConfig, sidecar: Sidecar) -> None:
    """An aug_sigma that was never trained gives a picture, but a wrong one."""
    allowed = sidecar.contract.max_aug_sigma
    if settings.aug_sigma > allowed:
        raise ValueError(
            f"stage {name}: aug_sigma {settings.aug_sigma} is above {allowed}, the largest it was trained on; choose less"
        )
