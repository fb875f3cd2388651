"""Some images of one request on their way through the chain, as a coroutine: it yields what it wants answered and is sent x0_hat.

Like a sampler it never calls a network, so an engine can hold many and answer several at once.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch

from data.batch import Cond, to_float, to_uint8
from data.cli import RunError
from stages.sampling import Ask, Given, ask, give_low_res, image_noise, start
from stages.super_res import SuperResStage

from .conditions import Conditions, for_stage
from .events import Event, Preview, StageFinished, StageStarted
from .link import Link, chosen, sizes
from .request import Request

Chunk = Generator[tuple[Link, Ask], torch.Tensor, None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that was found good: its part of the chain, the size of each stage's pictures, its conditions (a row for each
    prompt or label that is wanted)."""

    request: Request
    links: list[Link]
    sizes: list[tuple[int, int]]
    conds: Cond

    @classmethod
    def of(cls, request: Request, links: list[Link], conditions: Conditions) -> "Plan":
        """Raises ValueError for whatever the user can have got wrong."""
        used = chosen(links, request)
        return cls(request=request, links=used, sizes=sizes(used, request), conds=conditions.of(request))

    @property
    def chunks(self) -> list[tuple[int, ...]]:
        """The images that are computed together."""
        index, batch = self.request.index, self.request.batch
        return [index[begin : begin + batch] for begin in range(0, len(index), batch)]

    @property
    def weight(self) -> int:
        """As many images of the cascade's own size take the memory of one of these."""
        (h, w), side = self.sizes[-1], self.links[-1].contract.resolution
        return max(1, -(-h * w // side**2))

    @property
    def nfe(self) -> int:
        """Network calls if it is alone."""
        return len(self.chunks) * sum(link.nfe for link in self.links)


def paint(plan: Plan, index: tuple[int, ...], emit: Callable[[Event], None]) -> Chunk:
    """The images `index` through all stages of the plan. Pictures go from stage to stage as uint8: what is shown, stored and picked
    from is what the next stage gets."""
    conds = plan.conds[torch.tensor([plan.request.cond_row(image) for image in index])]
    pictures = plan.request.given(index)
    rows = torch.tensor(index)
    for link, size in zip(plan.links, plan.sizes, strict=True):
        shape = (link.contract.channels, *size)
        given = Given(cond=for_stage(conds, link.sidecar.config.cond).to(link.device))
        noise = image_noise(link.name, plan.request.seed, rows, "start", shape, link.device)
        if pictures is not None:
            assert isinstance(link.stage, SuperResStage)
            aug = image_noise(link.name, plan.request.seed, rows, "aug", shape, link.device)
            low_res = to_float(pictures).to(link.device)
            given = give_low_res(link.stage, given.cond, low_res, link.settings.aug_sigma, aug)
        emit(StageStarted(stage=link.name, index=index, nfe=link.nfe))
        sampler, step = start(link.settings, noise, given), 0
        query = next(sampler)
        while True:
            x0_hat = yield link, ask(link.settings, query, given)
            step += 1
            if not torch.isfinite(x0_hat).all():
                call = f"call {step} of {link.nfe}"
                raise RunError(f"stage {link.name}: NaN or infinity in x0_hat at {call}; try --precision fp32")
            emit(Preview(stage=link.name, index=index, step=step, nfe=link.nfe, x0_hat=x0_hat))
            try:
                query = sampler.send(x0_hat)
            except StopIteration as done:
                pictures = to_uint8(done.value).cpu()
                break
        emit(StageFinished(stage=link.name, index=index, images=pictures, last=link is plan.links[-1]))
