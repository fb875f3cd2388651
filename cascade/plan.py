"""A request, resolved against one cascade: its stages and settings, the sizes of their pictures, the division into chunks.

`resolve` is the only function that turns a request into settings and sizes; everything after it uses the `Plan`. Sizes are (height,
width) in px; messages write width x height, as the command line does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, Self

from torch import Tensor

from data.errors import nearest
from stages.config import SampleConfig
from stages.diffusion.control import num_inverted

from .conditions import Conditions
from .engine.control import level_of
from .engine.shaper import Shaper
from .engine.tiles import most_pixels
from .handing import with_handovers
from .link import Link, check_names, cut, over, side_multiple, with_settings
from .request import MAX_SIDE, Request, check_images, of_rows
from .source import Source
from .uncertainty import check_able


class Chain(Protocol):
    """The part of a `Cascade` that `resolve` needs."""

    links: list[Link]
    conditions: Conditions
    precision: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that was checked and resolved, its labels to numbers; its prompts are not encoded yet (`Cascade.painting`).

    links: the stages that it uses, with its settings. sizes: (h, w) of the pictures of each. chain: the whole cascade, with all
    given settings: it has the stages that held pictures went through before, and those that may follow. precision: of the
    networks. only: numbers of the images to compute now; empty: all of the request.
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
        """The numbers of the images to compute."""
        return self.only or self.request.index

    @cached_property
    def wanted(self) -> Sequence[int]:
        """Numbers of the descriptions that the images of `index` use; these are the rows of `Painting.conds`."""
        num, total = self.request.described, self.request.total
        if num == 1 or len(self.index) == total:
            return range(num)
        return tuple(sorted({self.request.description(image) % num for image in self.index}))

    def cond_row(self, image: int) -> int:
        """Position in `wanted` of an image's description."""
        return self.wanted.index(self.request.description(image) % self.request.described)

    def scales(self, stage: str, images: Sequence[int]) -> list[float] | None:
        """The guidance_scale of each of these images at a stage; None: that of its settings."""
        request = self.request
        scales = request.guidance.get(stage, ())
        return of_rows(scales, [request.description(image) % request.described for image in images]) or None

    @property
    def names(self) -> list[str]:
        """Names of the stages that it uses."""
        return [link.name for link in self.links]

    @property
    def is_whole(self) -> bool:
        """Whether its last stage is the last of the cascade."""
        return self.links[-1] is self.chain[-1]

    @property
    def made_by(self) -> list[Link]:
        """The stages that its pictures go through, for their metadata. Held pictures that are refined have been through the stages
        before `links`, too; a user's picture has not."""
        end = self.chain.index(self.links[-1]) + 1
        return self.chain[:end] if self.request.refines else self.links

    @property
    def per_chunk(self) -> int:
        """Images per chunk, at most: `request.batch`, divided by `weight` for larger images."""
        return max(1, self.request.batch // self.weight)

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return -(-len(self.index) // self.per_chunk)

    def chunk(self, number: int) -> tuple[int, ...]:
        """The numbers of the images of one chunk, which are computed together."""
        begin = number * self.per_chunk
        return tuple(self.index[begin : begin + self.per_chunk])

    @property
    def weight(self) -> int:
        """Memory of one image, in images of the cascade's own size: the ratio of areas, rounded up."""
        (h, w), side = self.sizes[-1], self.links[-1].contract.resolution
        return max(1, -(-h * w // side**2))

    @property
    def takes(self) -> tuple[int, int] | None:
        """Size of the pictures that its first stage enlarges; None for a base stage."""
        low_res = self.links[0].contract.low_res
        if low_res is None:
            return None
        h, w = self.sizes[0]
        return h * low_res // self.links[0].contract.resolution, w * low_res // self.links[0].contract.resolution

    @property
    def rows(self) -> int:
        """Batch rows per image of the host that has most; at least 2, whether guided or not; one more for each composed text."""
        num_composed = max(map(len, self.request.composed), default=0)
        return max(2, *(rows for link in self.links for rows in link.rows.values())) + num_composed

    @property
    def nfe(self) -> int:
        """Network calls in all, if it runs alone."""
        return self.num_chunks * sum(self.calls(link) for link in self.links)

    def calls(self, link: Link) -> int:
        """Network calls per chunk in a stage, those of an inversion among them."""
        source = self.request.source
        is_inverted = source is not None and source.inverted and link.name in self.seeing
        return link.nfe + (num_inverted(link.settings.num_steps) if is_inverted else 0)

    @cached_property
    def seeing(self) -> list[str]:
        """Names of the stages that see the source: those up to its own."""
        source = self.request.source
        return [] if source is None else [link.name for link in controlled(self.links, source)]

    def picked(self, images: Sequence[int]) -> Self:
        """A copy that computes only these images. Raises ValueError."""
        check_images(images, self.request.total)
        return replace(self, only=images)

    def with_pictures(self, low_res: Tensor) -> Self:
        """A copy with other given pictures of the same shape, so that a plan can be made before they are read."""
        assert self.request.low_res is not None
        assert low_res.shape == self.request.low_res.shape
        return replace(self, request=replace(self.request, low_res=low_res))

    def batched(self, batch: int) -> Self:
        """A copy with another `request.batch`."""
        return replace(self, request=replace(self.request, batch=batch))


def resolve(request: Request, cascade: Chain, *, others: Mapping[str, Mapping[str, Any]] | None = None) -> Plan:
    """Resolve a request to a plan. others: settings of stages that the request does not use, by name.

    Raises ValueError for every mistake in the request; only a missing or different text encoder is noticed later.
    """
    names = cut([link.name for link in cascade.links], request.first, request.last, "request")
    check_names(request.settings, names)
    settings = {**(others or {}), **request.settings}
    made, refined = names, ""
    if request.refines:  # the stages before made what is kept, and stopped where their settings say
        made, refined = cut([link.name for link in cascade.links], "", request.last, "request"), names[0]
    own = resting(cascade.links, names, request.source, settings)
    chain = with_handovers(with_settings(own, settings), made, request.settings, refined)
    links = [link for link in chain if link.name in names]
    if any(isinstance(label, str) for label in request.labels):
        request = replace(request, labels=cascade.conditions.numbers(request.labels))
    if request.source is not None:
        numbers = cascade.conditions.numbers(request.source.labels, "request: label of the source")
        request = replace(request, source=replace(request.source, labels=numbers))
    plan = Plan(
        request=request,
        chain=chain,
        links=links,
        sizes=sizes(links, request),
        precision=cascade.precision,
        settings=settings,
    )
    cascade.conditions.check(request)
    check_maps(plan)
    check_guidance(plan)
    check_source(plan, cascade)
    if request.uncertainty:
        check_able(links, chain, "request: uncertainty")
    for link, (h, w) in zip(links, plan.sizes, strict=True):
        if 0 < most_pixels(link) < h * w:
            raise ValueError(
                f"request: {w}x{h} px at stage {link.name}, whose self-attention looks at the whole picture at once; "
                f"at most {most_pixels(link):,} px there, ask for less or begin at a stage without self-attention"
            )
    return plan


def resting(
    links: Sequence[Link], names: list[str], source: Source | None, settings: Mapping[str, Mapping[str, Any]]
) -> list[Link]:
    """The chain with the strength and resample of its manifest where there is something to paint over, and without elsewhere; where
    settings name one themselves they have the last word. names: the stages of the request."""
    seeing: list[str] = []
    if source is not None:
        seeing = names[: names.index(source.stage) + 1] if source.stage in names else names
    told = []
    for link in links:
        strength = link.settings.strength if link.name in seeing else 1.0
        masked = link.name in seeing and source is not None and source.mask is not None
        resample = link.settings.resample if masked and "resample" not in settings.get(link.name, {}) else 1
        now = {"strength": strength, "resample": resample}
        if resample > 1 or any(getattr(link.settings, key) != value for key, value in now.items()):
            config = SampleConfig.model_validate(over(link.settings.model_dump(), now))
            link = replace(link, settings=config)
        told.append(link)
    return told


def check_maps(plan: Plan) -> None:
    """Raise ValueError if a stage that knows no picture without a map is given none."""
    for link in plan.links:
        config = link.sidecar.config
        if plan.request.maps is None and config.cond.needs_maps and not config.controlnet:
            raise ValueError(
                f"request: no map; stage {link.name} was given one with every picture of its training (cond.drop is 0); give one"
            )


def check_guidance(plan: Plan) -> None:
    """Raise ValueError for guidance of a stage that has none, and for a negative text that no stage would see. Held pictures may
    have been guided by it before."""
    request = plan.request
    check_names(request.guidance, [link.name for link in plan.chain])
    for link in plan.chain:
        if link.name in request.guidance and not link.is_guidable:
            raise ValueError(
                f"request: guidance of {link.name}: this stage was trained without text or classes; leave it out"
            )
    scales = [
        scale
        for link in plan.links
        if "text" in link.guided_parts
        for scale in request.guidance.get(link.name) or (link.settings.scale_of(part) for part in link.guided_parts)
    ]
    if any(request.negative) and not request.refines and all(scale == 1 for scale in scales):
        raise ValueError(
            "request: a negative text, but no stage that reads text is guided, and it acts by guidance alone; "
            "set a guidance_scale above 1"
        )


def controlled(links: list[Link], source: Source) -> list[Link]:
    """The stages up to that of a source. Raises ValueError if there is none of its name."""
    names = [link.name for link in links]
    if source.stage and source.stage not in names:
        raise ValueError(
            f"request: no stage {source.stage!r} of a source, there are {', '.join(names)}{nearest(source.stage, names)}"
        )
    return links[: names.index(source.stage) + 1 if source.stage else len(links)]


def check_source(plan: Plan, cascade: Chain) -> None:
    """Raise ValueError for settings of a source without one, and for a source with which nothing is done."""
    source, seen = plan.request.source, plan.seeing
    for link in plan.links:
        if link.settings.sigma_end and link.name in seen:
            raise ValueError(
                f"stage {link.name}: sigma_end {link.settings.sigma_end:g}: a source is kept to the end; set it to 0, or leave the "
                "source out"
            )
        if link.settings.strength < 1 and link.name not in seen:
            raise ValueError(
                f"settings of stage {link.name}: strength {link.settings.strength:g}: no source to start from there; "
                "give a picture to paint over, or leave it out"
            )
        if link.settings.resample > 1 and (source is None or source.mask is None or link.name not in seen):
            raise ValueError(
                f"settings of stage {link.name}: resample {link.settings.resample}: nothing is known there that what is painted "
                "must agree with; give a mask, or leave it out"
            )
        sampler = plan.request.settings.get(link.name, {}).get("sampler", "euler")
        if link.settings.resample > 1 and sampler != "euler":
            raise ValueError(
                f"settings of stage {link.name}: sampler {sampler}: resample {link.settings.resample} takes Euler's steps; leave "
                "one of them out"
            )
    if source is None:
        return
    own = [link for link in plan.links if link.name in seen]
    for link in own:
        level, lowest = level_of(link), link.settings.sigma_min
        if level <= lowest:
            raise ValueError(
                f"settings of stage {link.name}: strength {link.settings.strength:g} is noise of std {level:.3g}, not above its "
                f"sigma_min {lowest:g}; give more"
            )
    if source.mask is None and not source.inverted and all(level_of(link) == link.settings.sigma_start for link in own):
        raise ValueError(
            "request: a source with neither mask nor strength below 1: it would not be seen; give one of them"
        )
    if source.prompts or source.labels:
        cascade.conditions.check(Request(prompts=source.prompts, labels=source.labels))


def sizes(links: list[Link], request: Request) -> list[tuple[int, int]]:
    """(height, width) of each stage's pictures. Raises ValueError if a stage cannot make them, or for more than MAX_SIDE px."""
    (h, w), resolution = asked_size(links, request)
    multiple = 1  # a given picture is padded where its sides do not fit
    if request.low_res is None:
        multiple = side_multiple(links, resolution)
    if request.low_res is None and (takes := links[0].contract.low_res) is not None:
        multiple = math.lcm(multiple, resolution // math.gcd(resolution, takes))  # a source is shrunk to what it takes
    if h % multiple or w % multiple:
        raise ValueError(
            f"request: {w}x{h} px does not suit stages {', '.join(link.name for link in links)}; "
            f"choose sides that are multiples of {multiple}, "
            f"for instance {nearest_multiple(w, multiple)}x{nearest_multiple(h, multiple)}"
        )
    sides = [(h * link.contract.resolution // resolution, w * link.contract.resolution // resolution) for link in links]
    if request.source is not None and request.low_res is not None:
        (height, width), _ = source_size(own := controlled(links, request.source)[-1], request.source)
        if sides[links.index(own)] != (height, width):
            expected_h, expected_w = sides[links.index(own)]
            raise ValueError(
                f"request: a source of {width}x{height} px; the picture that is enlarged makes {expected_w}x{expected_h} px at "
                f"stage {own.name}"
            )
    if max(sides[-1]) > MAX_SIDE:
        raise ValueError(
            f"request: the result would be {sides[-1][1]}x{sides[-1][0]} px; at most {MAX_SIDE} px a side are allowed"
        )
    return sides


def nearest_multiple(side: int, multiple: int) -> int:
    """The multiple, at least one, that is nearest to a side."""
    return max(1, round(side / multiple)) * multiple


def asked_size(links: list[Link], request: Request) -> tuple[tuple[int, int], int]:
    """(height, width) of the given picture, else of the result, and the side that the cascade has there by itself. Raises
    ValueError if the request gives a picture to a base stage, or none to a super-resolution stage, or one of other channels."""
    first, last = links[0], links[-1]
    if request.low_res is None and request.source is not None:
        return source_size(controlled(links, request.source)[-1], request.source)
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


def source_size(link: Link, source: Source) -> tuple[tuple[int, int], int]:
    """(height, width) of a source, and the side of its stage's pictures. Raises ValueError for one of other channels."""
    channels = source.images.shape[1]
    if channels != link.contract.channels:
        raise ValueError(f"request: a source of {channels} channels, stage {link.name} gives {link.contract.channels}")
    return source.size, link.contract.resolution
