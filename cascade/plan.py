"""A request, resolved once against one cascade: which stages with which settings, what they paint, how it is divided into chunks.

`resolve` is the only place where a request becomes settings and sizes; whoever comes later carries its `Plan`. Sizes are (height,
width) in px; messages say width x height, as the command line does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, Self

from torch import Tensor

from .conditions import Conditions
from .engine.shaper import Shaper
from .engine.tiles import most_pixels
from .link import Link, check_names, cut, side_multiple, with_settings
from .request import MAX_SIDE, Request, check_images


class Chain(Protocol):
    """What there is to resolve a request against: a `Cascade`."""

    links: list[Link]
    conditions: Conditions
    precision: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that was found good; only its prompts are not encoded yet (`Cascade.painting`).

    links: the stages that it uses, with its settings; sizes: (h, w) of the pictures of each. chain: the whole cascade, with all
    settings that were said: what pictures that go on were made by before, and may become later. precision: of the networks.
    only: those of the request's images that are computed now, by number; none: all of them.
    """

    request: Request
    chain: list[Link]
    links: list[Link]
    sizes: list[tuple[int, int]]
    precision: str = "fp32"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shapers: tuple[Shaper, ...] = ()
    only: Sequence[int] = ()

    @property
    def index(self) -> Sequence[int]:
        """The numbers of the images that are wanted."""
        return self.only or self.request.index

    @cached_property
    def wanted(self) -> Sequence[int]:
        """The prompts or labels, by number, that the wanted images have."""
        said, total = self.request.described, self.request.total
        if said == 1 or len(self.index) == total:
            return range(said)
        return tuple(sorted({self.request.place(image) % said for image in self.index}))

    def cond_row(self, image: int) -> int:
        """Where in `wanted` the prompt or label of image k is."""
        return self.wanted.index(self.request.place(image) % self.request.described)

    @property
    def names(self) -> list[str]:
        """Of the stages that it uses."""
        return [link.name for link in self.links]

    @property
    def is_whole(self) -> bool:
        """Whether its last stage is the cascade's last."""
        return self.links[-1] is self.chain[-1]

    @property
    def made_by(self) -> list[Link]:
        """The stages that its pictures have been through: held pictures of ours that go on have been through those before, too, a
        user's picture has not."""
        end = self.chain.index(self.links[-1]) + 1
        return self.chain[:end] if self.request.refines else self.links

    @property
    def per_chunk(self) -> int:
        """How many images are computed together, at most: fewer where they are larger than the cascade's own."""
        return max(1, self.request.batch // self.weight)

    @property
    def num_chunks(self) -> int:
        return -(-len(self.index) // self.per_chunk)

    def chunk(self, number: int) -> tuple[int, ...]:
        """The images that are computed together."""
        begin = number * self.per_chunk
        return tuple(self.index[begin : begin + self.per_chunk])

    @property
    def weight(self) -> int:
        """As many images of the cascade's own size take the memory of one of these."""
        (h, w), side = self.sizes[-1], self.links[-1].contract.resolution
        return max(1, -(-h * w // side**2))

    @property
    def nfe(self) -> int:
        """Network calls if it is alone."""
        return self.num_chunks * sum(link.nfe for link in self.links)

    def picked(self, images: Sequence[int]) -> Self:
        """The same, of these images only."""
        check_images(images, self.request.total)
        return replace(self, only=images)

    def with_pictures(self, low_res: Tensor) -> Self:
        """The same of other given pictures of the same size: it may be made before they are read."""
        assert self.request.low_res is not None
        assert low_res.shape == self.request.low_res.shape
        return replace(self, request=replace(self.request, low_res=low_res))

    def batched(self, batch: int) -> Self:
        """The same with so many images computed together."""
        return replace(self, request=replace(self.request, batch=batch))


def resolve(request: Request, cascade: Chain, *, others: Mapping[str, Mapping[str, Any]] | None = None) -> Plan:
    """others: settings that were said of stages beyond the request's own, by name.

    Raises ValueError for whatever the user can have got wrong, but for a text encoder that is missing or another one.
    """
    names = cut([link.name for link in cascade.links], request.first, request.last, "request")
    check_names(request.settings, names)
    settings = {**(others or {}), **request.settings}
    chain = with_settings(cascade.links, settings)
    links = [link for link in chain if link.name in names]
    plan = Plan(
        request=request,
        chain=chain,
        links=links,
        sizes=sizes(links, request),
        precision=cascade.precision,
        settings=settings,
    )
    cascade.conditions.check(request)
    for link, (h, w) in zip(links, plan.sizes, strict=True):
        if 0 < most_pixels(link) < h * w:
            raise ValueError(
                f"request: {w}x{h} px at stage {link.name}, whose self-attention looks at the whole picture at once; "
                f"at most {most_pixels(link):,} px there, ask for less or begin at a stage without self-attention"
            )
    return plan


def sizes(links: list[Link], request: Request) -> list[tuple[int, int]]:
    """(height, width) of each stage's pictures. Raises ValueError where a stage cannot make them."""
    (h, w), resolution = asked_size(links, request)
    multiple = (
        side_multiple(links, resolution) if request.low_res is None else 1
    )  # a picture is continued where it must be
    if h % multiple or w % multiple:
        raise ValueError(
            f"request: {w}x{h} px does not suit stages {', '.join(link.name for link in links)}; "
            f"choose sides that are multiples of {multiple}, "
            f"for instance {nearest_multiple(w, multiple)}x{nearest_multiple(h, multiple)}"
        )
    found = [(h * link.contract.resolution // resolution, w * link.contract.resolution // resolution) for link in links]
    if max(found[-1]) > MAX_SIDE:
        raise ValueError(
            f"request: the result would be {found[-1][1]}x{found[-1][0]} px; at most {MAX_SIDE} px a side are allowed"
        )
    return found


def nearest_multiple(side: int, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def asked_size(links: list[Link], request: Request) -> tuple[tuple[int, int], int]:
    """What the user gives, a picture or the size of the result, and the resolution at which a square one would be usual."""
    first, last = links[0], links[-1]
    if request.low_res is None:
        if first.contract.low_res is not None:
            raise ValueError(f"request: the chain starts with {first.name}, a super-resolution stage; give a picture")
        return request.size or (last.contract.resolution,) * 2, last.contract.resolution
    if first.contract.low_res is None:
        raise ValueError(
            f"request: a picture, but the chain starts with {first.name}, a base stage; start at a later stage"
        )
    channels, h, w = request.low_res.shape[1:]
    if channels != first.contract.channels:
        raise ValueError(
            f"request: pictures of {channels} channels, stage {first.name} takes {first.contract.channels}"
        )
    return (h, w), first.contract.low_res
