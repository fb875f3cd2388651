"""Trains one stage, from its shards to its bundle. Progress is counted in images; to resume, run the same command again.

The state of a run is (seed, nimg), the weights, the optimizer, the averages and what the objective has learned. All randomness is a
function of (seed, image position), so nothing else needs saving.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from data.batch import Batch
from data.errors import RunError
from data.line import say
from data.read.mixture import MixtureLike
from data.read.shards import Reader

from ..build import build_stage
from ..config import StageConfig
from ..memory import Portions, is_memory_error
from ..randomness import generator
from ..tools.cost import cost_of, peak_flops
from .checkpoints import load_state, nimg_of
from .checks import checked_reader
from .controlled import beside
from .ema import Ema
from .engine import LOSS_SCALE, OBJECTIVE, State, weights_in
from .grid import sample_grid, save_picture
from .measured import resolved
from .norms import activation_norms, weight_norms
from .notes import notes
from .quartiles import SigmaQuartiles
from .ranks import lost_a_rank
from .rundir import RunDir, record
from .runtime import Options, Runtime, Score, compiles, make_engine
from .saving import Record, Saver
from .schedule import lr_at
from .signals import Stopped, StopSignals
from .skips import Skips
from .start import Start, start_of
from .validate import Validation, held_out, make_validation
from .watch import Watch

OUT_OF_MEMORY = 3  # exit code


def train(
    config: StageConfig, *, name: str, data: MixtureLike, out: Path, runtime: Runtime, options: Options | None = None
) -> Path:
    """Train the stage called `name` in the run directory `out`, resuming any run there; return the bundle's folder.

    A signal to stop (signals.py) saves first and raises Stopped, or KeyboardInterrupt for SIGINT.
    """
    options = options or Options()
    with options.signals or StopSignals(at_once=runtime.world == 1) as signals:
        return _train(config, name, data, out, runtime, options, signals)


def _train(
    config: StageConfig,
    name: str,
    data: MixtureLike,
    out: Path,
    runtime: Runtime,
    options: Options,
    signals: StopSignals,
) -> Path:
    reader, micro = checked_reader(
        config,
        data,
        rank=runtime.rank,
        world=runtime.world,
        held=options.val_data,
        elementwise=runtime.deepspeed.zero > 0,
    )
    run = RunDir(out)
    config, told = resolved(beside(config), data, reader.index.fingerprint, run)
    start = start_of(config, reader.index, run)
    start = replace(start, notes=(*start.notes, *told))
    if runtime.rank:
        return Run(config, name, reader, runtime, run, micro, options, signals, start).train()
    with run.lock():
        run.open(config, reader.index.fingerprint, resume=options.resume, allow=options.allow)
        return Run(config, name, reader, runtime, run, micro, options, signals, start).train()


class Run:
    """One rank of a run."""

    def __init__(
        self,
        config: StageConfig,
        name: str,
        reader: Reader,
        runtime: Runtime,
        run: RunDir,
        micro: int,
        options: Options,
        signals: StopSignals,
        start: Start,
    ):
        self.signals, self.start = signals, start
        self.config, self.name, self.reader, self.runtime, self.run, self.micro = (
            config,
            name,
            reader,
            runtime,
            run,
            micro,
        )
        self.options, self.settings, self.leads = options, config.train, runtime.rank == 0
        torch.manual_seed(generator(self.settings.seed, "weights").initial_seed())
        stage = build_stage(config)
        if start.weights is not None:
            stage.load_state_dict(stage.state_dict() | start.weights)
        stage = stage.to(runtime.device)
        if not run.folders():
            self.settings.objective.build().begin(stage)
        stage.set_precision(self.settings.precision)
        stage.net.checkpointed = self.settings.checkpoint_activations
        self.ema = Ema(stage, self.settings.ema)
        self.engine = make_engine(stage, config, runtime, micro)
        if compiles(runtime, self.settings.compile):
            stage.net.compile(dynamic=False)
        self.nimg, self.saved, self.logged = 0, 0, 0
        self.stopped, self.interrupted = False, False
        self.fault: Exception | None = None
        self.record = Record(run, config, reader.index, start.ancestors)
        self.saver, self.skips = Saver(run.path), Skips(name, self.settings.max_skipped)
        self.quartiles = SigmaQuartiles(stage, self.engine.objective)
        self.portions = Portions(f"{name}: grid")
        self.validation: Validation | None = None
        self.floor: float | None = None
        self.score: Score | None = None

    def train(self) -> Path:
        """Resume or begin, train to the last image, return the bundle's folder."""
        self.engine.barrier()  # rank 0 checks the run directory before others read it
        self._resume()
        if self.nimg >= self.settings.images:
            if self.leads:
                if self.options.resume != "auto":
                    self.record.begin(self.nimg, self.ema)
                self.record.renew_bundle(self.nimg, self.ema)
                say(f"{self.run.path}: nothing to do, {self.nimg:,} of {self.settings.images:,} images are done")
            self.engine.close()
            return self.run.bundle
        if self.leads:
            val_data = self.options.val_data or self.reader.places
            self.validation = make_validation(self.config, val_data, self.runtime.device, self.options.lower)
            if self.validation:
                self.floor = self.validation.floor(self.ema.module(self.settings.ema[0]))
            if self.settings.score_every and self.options.scoring:
                self.score = self.options.scoring(self.config, val_data)
        watch = self._watch() if self.leads else None
        batches = self.reader.batches(self.nimg)
        try:
            with self._explained():
                self._updates(batches, watch)
                self.saver.wait()
        finally:
            batches.close()  # type: ignore[attr-defined]
            self.saver.wait()
            if watch:
                watch.close()
        if self.saver.failed:
            raise OSError(f"{self.saver.problem}; make room there, and the same command goes on")
        self.engine.close()
        return self._ended()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Explain errors of memory and of lost ranks as RunError."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RunError):
                raise
            message, config = str(error), self.config
            if is_memory_error(error):
                raise RunError(
                    f"stage {self.name}: out of memory at image {self.nimg:,} with micro-batches of {self.micro} at "
                    f"{config.resolution} px; set train.micro_batch={max(1, self.micro // 2)}, "
                    "train.checkpoint_activations=true, or --zero 2",
                    OUT_OF_MEMORY,
                ) from error
            if dist.is_initialized() and dist.get_world_size() > 1 and lost_a_rank(message):
                raise RunError(
                    f"stage {self.name}: rank {self.runtime.rank} lost another one at image {self.nimg:,} "
                    f"({message.splitlines()[0][:200]}); look at its log, then run the same command again"
                ) from error
            raise

    def _ended(self) -> Path:
        """Return the bundle, or raise the reason why training ended early."""
        if self.leads and (self.stopped or self.fault):
            reason = "told to stop" if self.stopped else "no more data"
            say(f"{self.run.path}: {reason}, saved at {self.nimg:,} images; the same command goes on")
        if self.interrupted:
            raise KeyboardInterrupt
        if self.stopped:
            raise Stopped
        if self.fault:
            raise self.fault
        return self.run.bundle

    def _resume(self) -> None:
        """Load the checkpoint to resume from, if there is one, and print notes about unusual settings."""
        checkpoint, previous = self.run.chosen(self.options.resume), None
        if checkpoint is not None:
            state = load_state(checkpoint)
            self.engine.load(state)
            self.nimg = self.saved = self.logged = nimg_of(checkpoint)
            fresh = self.ema.load(checkpoint, weights_in(state), self.nimg)
            self._check_loaded(checkpoint, state)
            previous = self.run.before()
            for half_life in fresh if self.leads else []:
                self._say(
                    f"the average of half-life {half_life:,} is new; it starts from the weights at {self.nimg:,} images"
                )
        if self.leads and self.nimg < self.settings.images:
            for note in (*self.start.notes, *notes(self.settings, previous.train if previous else None, self.nimg)):
                self._say(note)

    def _check_loaded(self, checkpoint: Path, state: State) -> None:
        """Read the state back from the engine and compare it bit for bit, at any world size and ZeRO stage."""
        loaded = self.engine.state()
        mismatched = [
            name for name, tensor in loaded.items() if not torch.equal(tensor, state.get(name, tensor.new_empty(0)))
        ]
        mismatched += sorted(state.keys() - loaded.keys()) if self.leads else []
        # these may differ after a change of objective, or to or from fp16
        uncompared = {name for name in loaded.keys() ^ state.keys() if name.startswith(OBJECTIVE)} | {LOSS_SCALE}
        mismatched = [name for name in mismatched if name not in uncompared]
        if self.engine.any(bool(mismatched))[0]:
            raise RunError(
                f"stage {self.name}: {checkpoint} did not load as it was saved ({', '.join(mismatched[:3])})"
            )

    def _say(self, note: str) -> None:
        say(f"{self.name}: note: {note}", sys.stderr)

    def _latest(self) -> Path | None:
        """The newest checkpoint, once the one being written in the background is whole."""
        self.saver.wait()
        return self.run.latest()

    def _updates(self, batches: Iterator[Batch], watch: Watch | None) -> None:
        settings, pictures = self.settings, self._pictures()
        self.signals.hold()
        while self.nimg < settings.images:
            wait_start = time.monotonic()
            batch = self._next(batches)
            if watch:
                watch.waited(time.monotonic() - wait_start)
            if self._is_over():
                return self._stop(watch)
            assert batch is not None
            lr = lr_at(settings, self.nimg)
            update = self.engine.update(split(batch, self.micro), lr)
            self.skips.check(update, batch, self.nimg, self._latest)
            if self.leads and not self.record.begun:
                self.record.begin(self.nimg, self.ema)
                self.options.checked()
            previous_nimg, self.nimg = self.nimg, self.nimg + settings.batch
            self.quartiles.add(update)  # before the objective learns: it knows how often these levels were drawn
            if update.applied:
                with self.engine.whole():
                    self.ema.update(self.engine.stage, nimg=self.nimg, batch=settings.batch)
                self.engine.objective.learn(self.engine.stage, update.losses, self.engine.total)
            is_due, is_last = crossed(previous_nimg, self.nimg), self.nimg >= settings.images
            metrics: dict[str, float] = {}
            if is_last or is_due(settings.save_every) or is_due(settings.snapshot_every):
                metrics |= self._save(
                    checkpoint=is_last or is_due(settings.save_every), snapshot=is_due(settings.snapshot_every)
                )
            if is_last or is_due(settings.log_every):
                metrics |= self._quartiles()
            if watch:
                watch.update(update, batch=settings.batch)
                if pictures is not None and (is_last or is_due(settings.grid_every)):
                    metrics |= self._draw(pictures, watch)
                if self.score and (is_last or is_due(settings.score_every)):
                    metrics |= self.score(self.ema.module(settings.ema[0]))
                if is_last or metrics:
                    watch.log(self.nimg, lr=lr, device=self.runtime.device, facts=metrics)

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch. None after a request to stop (which also ends waiting for data) or a fault of the data."""
        try:
            with self.signals.waiting():
                return next(batches)
        except Stopped:
            return None
        except (ValueError, OSError) as error:
            self.fault = error
            return None

    def _is_over(self) -> bool:
        """Whether all ranks stop before the next update, because one of them must stop, has no data or cannot save."""
        self.stopped, self.interrupted, out_of_data, failed = self.engine.any(
            self.signals.caught is not None, self.signals.interrupted, self.fault is not None, self.saver.failed > 1
        )
        if failed:
            raise OSError(
                f"{self.saver.problem or 'rank 0 cannot save'}; stopped after two failed saves; make room there, and the same "
                "command goes on from the last whole checkpoint, or begins anew"
            )
        if out_of_data and not self.fault:
            self.fault = RunError(f"stage {self.name}: another rank has no more data; look at its log")
        return self.stopped or out_of_data

    def _stop(self, watch: Watch | None) -> None:
        """Save unsaved progress at once, without validation or grid."""
        metrics = self._save(checkpoint=True, snapshot=False, judged=False) if self.nimg > self.saved else {}
        if self.nimg > self.logged:
            metrics |= self._quartiles()
            if watch:
                watch.log(self.nimg, lr=lr_at(self.settings, self.nimg), device=self.runtime.device, facts=metrics)

    def _quartiles(self) -> dict[str, float]:
        self.logged = self.nimg
        return self.quartiles.take(self.engine)

    def _save(self, *, checkpoint: bool, snapshot: bool, judged: bool = True) -> dict[str, float]:
        """Copy the state and write it in the background; return the validation losses and how long training stood still."""
        started_at = time.monotonic()
        self.engine.barrier()  # detects a hanging rank in time; the groups that gather a state have their own time-out
        self.saved = self.nimg if checkpoint else self.saved
        state = self.engine.state() if checkpoint else {}
        if not self.leads:
            return {}
        losses = (
            self.validation.losses(self.ema.module(self.settings.ema[0]))
            if self.validation and checkpoint and judged
            else {}
        )
        validated_at = time.monotonic() if losses else started_at
        averages = self.ema.copies(), dict(self.ema.begun)
        job = partial(self.record.write, self.nimg, state, *averages, losses.get("val_loss"), snapshot)
        self.saver.submit(f"the checkpoint of image {self.nimg:,}", job)
        return losses | {"save_stall_s": time.monotonic() - validated_at}

    def _watch(self) -> Watch:
        return Watch(
            self.run,
            nimg=self.nimg,
            images=self.settings.images,
            name=self.name,
            world=self.runtime.world,
            train_flops=cost_of(self.config).train_flops if peak_flops(self.runtime.device) else 0,
            wandb=self.options.wandb,
            settings=record(self.config, self.reader.index.fingerprint),
            floor=self.floor,
        )

    def _pictures(self) -> Batch | None:
        """Pictures for the sample grids: the first of the val split, or of the train split without one."""
        if not self.leads:
            return None
        split = "val" if self.reader.index.num_images.get("val") else "train"
        return next(held_out(self.config, self.reader.places, 16, split))

    def _draw(self, pictures: Batch, watch: Watch) -> dict[str, float]:
        """Paint the grid; also return weight and activation norms if `norms` is set."""
        stage = self.ema.module(self.settings.ema[0])
        picture = sample_grid(stage, pictures, self.portions)
        if picture is None:
            return {}
        save_picture(picture, self.run.samples / f"nimg-{self.nimg:010d}.png")
        watch.grid(picture, self.nimg)
        batch = pictures[: self.portions.most].to(self.runtime.device)
        if not self.options.norms:
            return {}
        return weight_norms(stage) | activation_norms(stage, batch, objective=self.engine.objective)


def split(batch: Batch, size: int) -> list[Batch]:
    """Split a batch into micro-batches of `size`."""
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def crossed(before: int, nimg: int) -> Callable[[int], bool]:
    """A function that tells whether this update reached a multiple of `every` images; 0 is never."""
    return lambda every: every > 0 and before // every != nimg // every
