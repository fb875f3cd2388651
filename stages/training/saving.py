"""Saves that do not stall training: the loop copies the state, a thread writes it while training goes on."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from safetensors import SafetensorError
from torch import Tensor

from data.disk import free_gb
from data.index import Index
from data.line import say

from ..bundle import Ancestor, Provenance, read_sidecar, save_bundle
from ..config import StageConfig
from .checkpoints import CHECKPOINT_NAME, read_manifest, save_state
from .checks import text_encoder_id
from .ema import Averages, Ema, save_averages
from .engine import State
from .rundir import RunDir, versions
from .start import write_inherited


class Saver:
    """Runs one save at a time in a thread. A failed save is reported and training goes on; `failed` counts failures in a row."""

    def __init__(self, folder: Path):
        self.folder, self.failed, self.problem = folder, 0, ""
        self._thread: Thread | None = None

    def submit(self, what: str, job: Callable[[], object]) -> None:
        """Start `job` in the background after the previous one has ended; does nothing after two failures, which end the run."""
        self.wait()
        if self.failed > 1:
            return
        self._thread = Thread(target=self._run, args=(what, job), name="save")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread:
            self._thread.join()
            self._thread = None

    def _run(self, what: str, job: Callable[[], object]) -> None:
        try:
            job()
            self.failed = 0
        except (OSError, SafetensorError, ValueError) as error:
            self.failed += 1
            self.problem = f"{what} could not be saved in {self.folder} ({free_gb(self.folder):.1f} GB free): {error}"
            has_checkpoint = any(
                CHECKPOINT_NAME.fullmatch(path.name) for path in self.folder.glob("checkpoints/nimg-*")
            )
            advice = "older checkpoints are whole" if has_checkpoint else "there is no checkpoint yet; make room"
            say(f"{self.problem}; {advice}; training goes on", sys.stderr)


class Record:
    """Writes a run's checkpoints, snapshots and bundle. Only rank 0 writes."""

    def __init__(self, run: RunDir, config: StageConfig, index: Index, ancestors: tuple[Ancestor, ...] = ()):
        self.run, self.config, self.index, self.ancestors, self.begun = run, config, index, ancestors, False

    def begin(self, nimg: int, ema: Ema) -> None:
        """Take over the folder, once a first update has shown that the run can go on from `nimg`."""
        self.run.begin(self.config, self.index.fingerprint, nimg)
        write_inherited(self.run, self.ancestors)
        self.renew_bundle(nimg, ema)
        self.begun = True

    def renew_bundle(self, nimg: int, ema: Ema) -> None:
        """Rewrite the bundle if it holds other weights, as after going back or a kill between checkpoint and bundle."""
        half_life, checkpoint = self.config.train.ema[0], self.run.latest() if nimg else None
        if checkpoint is None:
            return
        try:
            provenance = read_sidecar(self.run.bundle).provenance
        except ValueError:
            provenance = None
        if provenance is None or (provenance.nimg, provenance.ema) != (nimg, half_life):
            self.write_bundle(nimg, ema.copies()[half_life], read_manifest(checkpoint).get("val_loss"))

    def write(
        self,
        nimg: int,
        state: State,
        averages: Averages,
        begun: Mapping[int, int],
        val_loss: float | None,
        snapshot: bool,
    ) -> None:
        """Write checkpoint and bundle if `state` is not empty, and a snapshot of the averages if `snapshot`. begun: see Ema."""
        if snapshot:
            write_snapshot(self.run, nimg, averages, begun)
        if state:
            keep = self.config.train.keep
            write_checkpoint(self.run, nimg, state, averages, keep=keep, val_loss=val_loss, begun=begun)
            self.write_bundle(nimg, averages[self.config.train.ema[0]], val_loss)

    def write_bundle(self, nimg: int, weights: dict[str, Tensor], val_loss: float | None) -> None:
        """Write the bundle with the averaged weights at nimg."""
        classes = self.index.classes if self.config.cond.num_classes else None
        save_bundle(
            self.run.bundle,
            weights,
            config=self.config,
            text_encoder=text_encoder_id(self.config, self.index),
            provenance=Provenance(
                nimg=nimg,
                ema=self.config.train.ema[0],
                data=self.index.fingerprint,
                classes=tuple(classes) if classes else None,
                versions=versions(),
                scores={} if val_loss is None else {"val_loss": val_loss},
                ancestors=self.ancestors,
            ),
        )


def write_checkpoint(
    run: RunDir,
    nimg: int,
    state: State,
    averages: Averages,
    *,
    keep: int,
    val_loss: float | None = None,
    begun: Mapping[int, int] = {},
) -> None:
    """Write everything needed to resume. begun: see `save_averages`."""
    with drafted(run.draft(nimg)) as draft:
        save_state(state, draft)
        save_averages(averages, draft, begun)
        run.commit(draft, nimg, keep, val_loss)


def write_snapshot(run: RunDir, nimg: int, averages: Averages, begun: Mapping[int, int] = {}) -> None:
    """Write the averages alone, kept for ever, for half-lives chosen afterwards (posthoc.py)."""
    folder = run.snapshots / f"nimg-{nimg:010d}"
    draft = folder.with_suffix(".tmp")
    draft.mkdir(parents=True, exist_ok=True)
    with drafted(draft):
        save_averages(averages, draft, begun)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)


@contextmanager
def drafted(draft: Path) -> Iterator[Path]:
    """Remove the draft if it cannot be completed."""
    try:
        yield draft
    except Exception:
        shutil.rmtree(draft, ignore_errors=True)
        raise
