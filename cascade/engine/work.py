"""The seam of work: what an engine runs, and `alone` without one. Painting a request (`chunk.Painting`) is one kind.

A chunk asks hosts and emits events, those of `events` or its own; it knows nothing of who else asks the same hosts.
"""

from collections.abc import Callable, Generator
from typing import Protocol

from stages.diffusion.samplers import Answer

from ..events import Event
from .host import Asks

Chunk = Generator[Asks, list[Answer], None]
"""Some images on their way: yields asks, all answered at once when it goes on."""


class Work(Protocol):
    """first: the name of a host; who has it takes the first step of each chunk. total: images in all. weight: as many images of the
    cascade's own size take the memory of one."""

    @property
    def first(self) -> str: ...
    @property
    def total(self) -> int: ...
    @property
    def weight(self) -> int: ...
    @property
    def num_chunks(self) -> int: ...
    def chunk(self, number: int) -> tuple[int, ...]: ...  # the images that are computed together
    def steps(self, index: tuple[int, ...], emit: Callable[[Event], None]) -> Chunk: ...
    def finished(self) -> Event: ...  # what is told when all chunks are done
