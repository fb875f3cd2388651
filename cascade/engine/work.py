"""The interface of work: what an engine runs, or `alone` without one. Sampling a request (`chunk.Painting`) is one kind.

A chunk asks hosts and emits events, those of `events` or its own; it does not know which other chunks ask the same hosts.
"""

from collections.abc import Callable, Generator
from typing import Protocol

from stages.diffusion.samplers import Answer

from ..events import Event
from .host import Asks

Chunk = Generator[Asks, list[Answer], None]
"""The coroutine of some images: it yields asks and is sent their answers, all at once."""


class Work(Protocol):
    """Images in chunks, whose steps ask hosts and emit events."""

    @property
    def first(self) -> str:
        """Name of a host; a worker that has it makes the first step of each chunk."""
        ...

    @property
    def total(self) -> int:
        """Number of images in all chunks."""
        ...

    @property
    def weight(self) -> int:
        """Memory of one image, in images of the cascade's own size."""
        ...

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        ...

    def chunk(self, number: int) -> tuple[int, ...]:
        """The numbers of the images of one chunk, which are computed together."""
        ...

    def steps(self, index: tuple[int, ...], emit: Callable[[Event], None]) -> Chunk:
        """The coroutine of a chunk. emit: gets its events."""
        ...

    def finished(self) -> Event:
        """The event after the last chunk."""
        ...
