"""Loader processes for a `Reader`: each decodes its streams, the parent puts their parts together in order."""

import signal
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.batch import Batch, Cond

if TYPE_CHECKING:
    from data.shards import Reader


class _Fault:
    """A ValueError on its way from a worker; raised there it would arrive as a page of traceback."""

    def __init__(self, message: str):
        self.message = message


class _Parts(IterableDataset):
    def __init__(self, reader: "Reader", nimg: int):
        self.reader, self.nimg = reader, nimg

    def __iter__(self) -> Iterator[Batch | _Fault]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self.reader.worker_parts(self.nimg, info.id)
        except (ValueError, OSError) as error:
            yield _Fault(str(error))


def merged(reader: "Reader", nimg: int) -> Iterator[Batch]:
    """The batches of `reader`'s rank from its worker processes, which stop when this generator is closed."""
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
            yield _merge([_unpacked(part) for part in islice(parts, reader.workers)])
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a loader process died ({error}); start again, with fewer workers if memory was short"
        ) from error


def _unpacked(part: Batch | _Fault) -> Batch:
    if isinstance(part, _Fault):
        raise ValueError(part.message)
    return part


def _merge(parts: list[Batch]) -> Batch:
    index = torch.cat([part.index for part in parts])
    order = index.argsort()
    keys = [key for part in parts for key in part.keys]
    return Batch(
        image=torch.cat([part.image for part in parts])[order],
        cond=Cond.cat([part.cond for part in parts])[order],
        index=index[order],
        keys=tuple(keys[k] for k in order.tolist()),
    )


def _ignore_interrupt(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops us
