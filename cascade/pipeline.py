"""Bundles in, events out: `Cascade.load(folder)` and `cascade.sample(request) -> Iterator[Event]`.

Each chunk of images runs through all stages before the next chunk starts, so memory is bounded by `request.batch` and the first
finished pictures come early. The noise of image k in stage s is a function of (seed, k, s) alone.
"""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from data.batch import Cond, to_float, to_uint8
from data.cli import RunError
from stages.bundle import find_bundle, load_bundle, read_sidecar
from stages.sampling import Given, give_low_res, guided, image_noise, start
from stages.super_res import SuperResStage

from .conditions import Conditions, for_stage
from .events import Event, Finished, Preview, StageFinished, StageStarted
from .link import Link, cut, side_multiple, sizes, with_settings
from .manifest import check_chain, read_manifest
from .request import Request


class Cascade:
    """Stages in a chain, ready to sample. `links` may start with a super-resolution stage: then pictures must be given."""

    def __init__(
        self,
        links: list[Link],
        *,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        download: bool = False,
    ):
        check_chain({link.name: link.contract for link in links})
        self.links, self.device, self.precision = links, device, precision
        self.conditions = Conditions(links, download=download)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        first: str = "",
        last: str = "",
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        download: bool = False,
    ) -> Self:
        """The cascade in a folder: the --out of train.py, or what ships with the project. first, last: names to cut the chain.

        download: let a text encoder that is missing here be fetched from the hub; else nothing reaches for the network.
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
        return cls(links, device=device, precision=precision, download=download)

    @property
    def low_res_multiple(self) -> int:
        """Sides of a picture given to the first stage must be multiples of this."""
        low_res = self.links[0].contract.low_res
        assert low_res is not None
        return side_multiple(self.links, low_res)

    def sample(self, request: Request) -> Iterator[Event]:
        """The events of a request. Everything the user can have got wrong is told before the first one."""
        links = with_settings(self.links, request.settings)
        shapes = sizes(links, request)
        conds = self.conditions.of(request).to(self.device)
        return self._events(request, links, conds, shapes)

    def _events(
        self, request: Request, links: list[Link], conds: Cond, sizes: list[tuple[int, int]]
    ) -> Iterator[Event]:
        calls = 0
        for begin in range(0, request.total, request.batch):
            index = tuple(range(begin, min(begin + request.batch, request.total)))
            places = torch.tensor([request.place(image) for image in index])
            cond = conds[(places % len(conds)).to(self.device)]
            pictures = None
            if request.low_res is not None:
                pictures = to_float(request.low_res[places % len(request.low_res)]).to(self.device)
            for link, size in zip(links, sizes, strict=True):
                pictures = yield from self._stage(request, link, index, cond, size, pictures)
                yield StageFinished(
                    stage=link.name, index=index, images=to_uint8(pictures).cpu(), last=link is links[-1]
                )
                calls += link.nfe
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
        shape = (link.contract.channels, *size)
        cond = for_stage(cond, link.sidecar.config.cond)
        rows = torch.tensor(index)
        noise = image_noise(link.name, request.seed, rows, "start", shape, self.device)
        given = Given(cond=cond)
        if low_res is not None:
            assert isinstance(link.stage, SuperResStage)
            aug = image_noise(link.name, request.seed, rows, "aug", shape, self.device)
            given = give_low_res(link.stage, cond, low_res, link.settings.aug_sigma, aug)
        total = link.nfe
        yield StageStarted(stage=link.name, index=index, nfe=total)
        denoise, sampler = guided(link.stage, link.settings, given), start(link.settings, noise, given)
        query = next(sampler)
        step = 0
        while True:
            x0_hat = denoise(query.x, query.sigma)
            step += 1
            if not torch.isfinite(x0_hat).all():
                raise RunError(
                    f"stage {link.name}: NaN or infinity in x0_hat at call {step} of {total}; try --precision fp32"
                )
            yield Preview(stage=link.name, index=index, step=step, nfe=total, x0_hat=x0_hat)
            try:
                query = sampler.send(x0_hat)
            except StopIteration as done:
                return done.value.clamp(-1, 1)
