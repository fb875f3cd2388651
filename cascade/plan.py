"""A request that was found good, resolved against one cascade: what is computed, of which sizes, from which conditions."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.batch import Cond

from .conditions import Conditions
from .link import Link, chosen, sizes
from .request import Request
from .shaper import Shaper
from .tiles import most_pixels


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that was found good: its part of the chain, the size of each stage's pictures, its conditions (a row for each
    prompt or label that is wanted)."""

    request: Request
    links: list[Link]
    sizes: list[tuple[int, int]]
    conds: Cond
    shapers: tuple[Shaper, ...] = ()

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
