"""Some images of one request on their way through the chain, as a coroutine: it yields what it wants answered and is sent x0_hat.

Like a sampler it never calls a network, so an engine can hold many and answer several at once.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from data.batch import Cond, to_float, to_uint8
from data.cli import RunError
from stages.sampling import Ask, Given, give_low_res, image_noise, start
from stages.super_res import SuperResStage

from .conditions import Conditions, for_stage
from .events import Event, Preview, StageFinished, StageStarted
from .link import Link, chosen, sizes
from .request import Request
from .tiles import answered, most_pixels

Chunk = Generator[tuple[Link, Ask], torch.Tensor, None]
EDGE = 4  # px of the stage's low_res by which a picture is continued


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
        plan = cls(request=request, links=used, sizes=sizes(used, request), conds=conditions.of(request))
        for link, (h, w) in zip(used, plan.sizes, strict=True):
            if 0 < most_pixels(link) < h * w:
                raise ValueError(
                    f"request: {w}x{h} px at stage {link.name}, whose self-attention looks at the whole picture at once; "
                    f"at most {most_pixels(link):,} px there, ask for less or begin at a stage without self-attention"
                )
        return plan

    @property
    def per_chunk(self) -> int:
        """How many images are computed together, at most."""
        return max(1, self.request.batch // self.weight)

    @property
    def num_chunks(self) -> int:
        return -(-len(self.request.index) // self.per_chunk)

    def chunk(self, number: int) -> tuple[int, ...]:
        """The images that are computed together."""
        begin = number * self.per_chunk
        return tuple(self.request.index[begin : begin + self.per_chunk])

    @property
    def weight(self) -> int:
        """As many images of the cascade's own size take the memory of one of these."""
        return weight(self.links, self.sizes)

    @property
    def nfe(self) -> int:
        """Network calls if it is alone."""
        return self.num_chunks * sum(link.nfe for link in self.links)


def weight(links: Sequence[Link], sizes: Sequence[tuple[int, int]]) -> int:
    """As many images of the cascade's own size take the memory of one that has these sizes at the stages."""
    (h, w), side = sizes[-1], links[-1].contract.resolution
    return max(1, -(-h * w // side**2))


def per_chunk(links: list[Link], request: Request) -> int:
    """How many images of a request are computed together, at most: fewer where they are larger than the cascade's own."""
    used = chosen(links, request)
    return max(1, request.batch // weight(used, sizes(used, request)))


def paint(plan: Plan, index: tuple[int, ...], emit: Callable[[Event], None]) -> Chunk:
    """The images `index` through all stages of the plan. Pictures go from stage to stage as uint8: what is shown, stored and picked
    from is what the next stage gets. A picture of another size than a super-resolution stage's own is continued on all sides by its
    last pixels, and what was made of these is cut off: the sides suit the network, and it does not take a photograph's edge for the
    edge that its training pictures have, which it would paint as a frame."""
    conds = plan.conds[torch.tensor([plan.request.cond_row(image) for image in index])]
    pictures = plan.request.given(index)
    rows = torch.tensor(index)
    for link, (h, w) in zip(plan.links, plan.sizes, strict=True):
        factor = link.contract.resolution // link.contract.low_res if link.contract.low_res else 1
        multiple = math.lcm(link.sidecar.config.multiple, factor)
        edge = EDGE * factor if pictures is not None and (h, w) != (link.contract.resolution,) * 2 else 0
        shape = (link.contract.channels, *(-(-(side + 2 * edge) // multiple) * multiple for side in (h, w)))
        inner = (..., slice(edge, edge + h), slice(edge, edge + w))
        given = Given(cond=for_stage(conds, link.sidecar.config.cond).to(link.device))
        noise = image_noise(link.name, plan.request.seed, rows, "start", shape, link.device)
        if pictures is not None:
            assert isinstance(link.stage, SuperResStage)
            aug = image_noise(link.name, plan.request.seed, rows, "aug", shape, link.device)
            low_res = to_float(pictures).to(link.device)
            before, (height, width) = edge // factor, low_res.shape[-2:]
            after = (shape[2] // factor - width - before, shape[1] // factor - height - before)
            low_res = F.pad(low_res, (before, after[0], before, after[1]), mode="replicate")
            given = give_low_res(link.stage, given.cond, low_res, link.settings.aug_sigma, aug)
        emit(StageStarted(stage=link.name, index=index, nfe=link.nfe))
        sampler, step = start(link.settings, noise, given), 0
        query = next(sampler)
        while True:
            x0_hat = yield from answered(link, query, given)
            step += 1
            if not torch.isfinite(x0_hat).all():
                call = f"call {step} of {link.nfe}"
                raise RunError(f"stage {link.name}: NaN or infinity in x0_hat at {call}; try --precision fp32")
            emit(Preview(stage=link.name, index=index, step=step, nfe=link.nfe, x0_hat=x0_hat[inner]))
            try:
                query = sampler.send(x0_hat)
            except StopIteration as done:
                pictures = to_uint8(done.value[inner]).cpu()
                break
        emit(StageFinished(stage=link.name, index=index, images=pictures, last=link is plan.links[-1]))
