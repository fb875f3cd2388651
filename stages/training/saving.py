"""Saves that do not stall training: the loop takes a copy of the state, a thread writes it down while training goes on."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from safetensors import SafetensorError

from .checkpoints import save_state
from .ema import Averages, save_averages
from .engine import State
from .rundir import RunDir


class Saver:
    """One save at a time. A save that fails is told and training goes on to the next one; `failed` counts those in a row."""

    def __init__(self, folder: Path):
        self.folder, self.failed, self.problem = folder, 0, ""
        self._thread: Thread | None = None

    def submit(self, what: str, job: Callable[[], object]) -> None:
        """Starts `job` in the background, after the one before has ended; nothing after two failures, which end the run."""
        self.wait()
        if self.failed > 1:
            return
        self._thread = Thread(target=self._run, args=(what, job), name="save")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread:
            self._thread.join()
            self._thread = None

    def _run(self, what: str, job: Callable[[], object]) -> None:
        try:
            job()
            self.failed = 0
        except (OSError, SafetensorError, ValueError) as error:
            self.failed += 1
            free = shutil.disk_usage(self.folder).free / 1e9
            self.problem = f"{what} could not be saved in {self.folder} ({free:.1f} GB free): {error}"
            print(f"{self.problem}; older checkpoints are whole, training goes on", file=sys.stderr, flush=True)


def write_checkpoint(
    run: RunDir, nimg: int, state: State, averages: Averages, *, keep: int, val_loss: float | None = None
) -> None:
    """Everything that resuming needs."""
    draft = run.draft(nimg)
    save_state(state, draft)
    save_averages(averages, draft)
    run.commit(draft, nimg, keep, val_loss)


def write_snapshot(run: RunDir, nimg: int, averages: Averages) -> None:
    """The averages alone, kept for ever, for half-lives chosen afterwards (posthoc.py)."""
    folder = run.snapshots / f"nimg-{nimg:010d}"
    draft = folder.with_suffix(".tmp")
    draft.mkdir(parents=True, exist_ok=True)
    save_averages(averages, draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
