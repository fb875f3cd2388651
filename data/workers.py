"""Loader processes for a `Reader`: each decodes its streams, the parent puts their parts together in order.

Rows travel as numpy arrays through a pipe: for pictures of up to 128 px that is about twice as
fast as torch's shared memory.
"""

import signal
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.read import Part, Row

if TYPE_CHECKING:
    from data.shards import Reader


class _Fault:
    """A ValueError on its way from a worker; raised there it would arrive as a page of traceback."""

    def __init__(self, message: str):
        self.message = message


class _Parts(IterableDataset):
    def __init__(self, reader: "Reader", nimg: int):
        self.reader, self.nimg = reader, nimg

    def __iter__(self) -> Iterator[Part | _Fault]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self.reader.worker_parts(self.nimg, info.id)
        except (ValueError, OSError) as error:
            yield _Fault(str(error))


def merged(reader: "Reader", nimg: int) -> Iterator[Part]:
    """The parts of `reader`'s rank from its worker processes, which stop when this generator is closed."""
    loader = DataLoader(
        _Parts(reader, nimg),
        batch_size=None,
        num_workers=reader.workers,
        prefetch_factor=4,
        worker_init_fn=_ignore_interrupt,
    )
    parts = iter(loader)
    try:
        while True:
            yield _in_order(list(islice(parts, reader.workers)))
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a loader process died ({error}); start again, with fewer workers if memory was short"
        ) from error


def _in_order(parts: list[Part | _Fault]) -> Part:
    """The parts of one batch as one, by position."""
    placed: list[tuple[int, Row]] = []
    for part in parts:
        if isinstance(part, _Fault):
            raise ValueError(part.message)
        placed += zip(part.places, part.rows, strict=True)
    placed.sort(key=lambda pair: pair[0])
    return Part([row for _, row in placed], [place for place, _ in placed])


def _ignore_interrupt(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops us
