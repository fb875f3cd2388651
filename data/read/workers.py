"""Loader processes of a `Reader`: each decodes its part of the streams, the parent joins the parts in order.

Rows travel as numpy arrays through a pipe: for pictures of up to 128 px that is about twice as fast as torch's shared
memory.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any, Protocol

from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.orphans import end_with_parent
from data.read.samples import Part, Row
from data.stop import STOP_SIGNALS, held_back


class Divided(Protocol):
    """What loader processes need: a `Reader`, which divides batches among them."""

    @property
    def workers(self) -> int:
        """Number of loader processes of this rank."""
        ...

    def worker_parts(self, nimg: int, worker: int) -> Iterator[Part]:
        """Yield what one loader process contributes to each global batch."""
        ...


class _Fault:
    """The message of an error on its way from a worker; raised there it would arrive as a page of traceback."""

    def __init__(self, message: str):
        self.message = message


class _Parts(IterableDataset):
    def __init__(self, reader: Divided, nimg: int):
        self.reader, self.nimg = reader, nimg

    def __iter__(self) -> Iterator[Part | _Fault]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self.reader.worker_parts(self.nimg, info.id)
        except (ValueError, OSError) as error:
            yield _Fault(str(error))


def merged(reader: Divided, nimg: int) -> Iterator[Part]:
    """Yield this rank's part of each batch from its loader processes; they end with this generator or this process."""
    loader = DataLoader(
        _Parts(reader, nimg),
        batch_size=None,
        num_workers=reader.workers,
        prefetch_factor=4,
        worker_init_fn=lambda _: end_with_parent(),
        multiprocessing_context="fork",  # the default of Python 3.14 inherits no signal mask, and has another parent to end with
    )
    try:
        with _started(loader) as parts:
            _deaths.install()
            while True:
                with _deaths.told():
                    worker_parts = list(islice(parts, reader.workers))
                yield _in_order(worker_parts)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a loader process died ({error}); start again, with fewer workers if memory was short"
        ) from error


@contextmanager
def _started(loader: DataLoader) -> Iterator[Any]:
    """The iterator of a loader; its processes end with the block, or at this process's exit, which would otherwise hang on them.

    The processes never receive a signal that asks for a stop: a process group gets it as a whole, and the parent, which
    may have something to save, ends them.
    """
    with ExitStack() as stack:
        with held_back(STOP_SIGNALS):
            parts = iter(loader)
            stack.callback(Finalize(None, _end, args=(parts,), exitpriority=0))
        yield parts


def _end(parts: Any) -> None:
    """Kill the processes of a loader's iterator, which only read.

    torch would wait for each, send the SIGTERM that they ignore, and take a lock that a killed process may hold for
    ever; marking the iterator as shut down prevents that.
    """
    if parts._shutdown:
        return
    parts._shutdown = True
    _remove_worker_pids(id(parts))  # otherwise their end is reported as a fault
    for process in parts._workers:
        process.kill()
    for process, queue in zip(parts._workers, parts._index_queues, strict=True):
        process.join()
        queue.cancel_join_thread()
        queue.close()


class _Deaths:
    """Controls when the death of a loader process is raised.

    torch raises it from a signal handler, wherever the main thread is, which may be in the middle of an update. Here it
    is raised only while a batch is awaited; there it must be, because half a part in the pipe would be awaited for
    ever.
    """

    def __init__(self):
        self.handler: Callable[[int, FrameType | None], object] | None = None
        self.waiting = self.pending = False

    def install(self) -> None:
        """Replace torch's handler, which is set once, with the first loader of the main thread."""
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGCHLD)
            if callable(handler) and handler != self._child_ended:
                self.handler = handler
                signal.signal(signal.SIGCHLD, self._child_ended)

    def _child_ended(self, number: int, frame: FrameType | None) -> None:
        if self.waiting and self.handler:
            self.handler(number, frame)
        else:
            self.pending = True

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raise RuntimeError if a loader process has died since the last block, or dies in this one."""
        if self.handler is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.waiting = True
        try:
            if self.pending:
                self.pending = False
                self.handler(signal.SIGCHLD, None)
            yield
        finally:
            self.waiting = False


_deaths = _Deaths()


def _in_order(parts: list[Part | _Fault]) -> Part:
    """Join the parts of one batch, ordered by position."""
    indexed: list[tuple[int, Row]] = []
    for part in parts:
        if isinstance(part, _Fault):
            raise ValueError(part.message)
        indexed += zip(part.places, part.rows, strict=True)
    indexed.sort(key=lambda pair: pair[0])
    return Part([row for _, row in indexed], [index for index, _ in indexed])
