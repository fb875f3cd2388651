"""Training of one stage, from its shards to its bundle. Progress is counted in images; to resume, run the same command again.

The state of a run is (seed, nimg), the weights, the optimizer and the averages. All randomness is a function of (seed, image
position), so nothing else has to be saved.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from data.batch import Batch
from data.index import Index
from data.shards import Reader

from ..build import build_stage
from ..bundle import Provenance, save_bundle
from ..config import StageConfig
from ..randomness import generator
from ..stage import Stage
from .ema import Ema
from .engine import DeepSpeedEngine, Engine, LocalEngine, NonFiniteError, check_optimizer
from .grid import held_out, sample_grid, save_picture
from .rundir import RunDir, nimg_of, versions
from .schedule import lr_at
from .watch import Watch


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run happens: which engine, which of how many processes, on which device, at which ZeRO stage."""

    engine: str
    rank: int
    world: int
    device: torch.device
    zero: int = 0


def train(
    config: StageConfig,
    *,
    name: str,
    data: str | Path,
    out: Path,
    place: Place,
    checked: Callable[[], None] = lambda: None,
) -> Path:
    """Trains the stage called `name` into the run directory `out`, resuming what is there; returns the bundle's folder.

    `checked` is called once on rank 0, after everything the user can have got wrong was found right.
    """
    settings = config.train
    reader = make_reader(config, data, place)
    check_data(config, reader.index)
    check_optimizer(settings)
    micro = micro_batch(config, place.world)
    run = RunDir(out)
    if place.rank == 0:
        run.open(config, reader.index.fingerprint)
        checked()

    torch.manual_seed(generator(settings.seed, "weights").initial_seed())
    stage = build_stage(config)
    stage.set_precision(settings.precision)
    ema = Ema(stage.to(place.device), settings.ema)
    engine = make_engine(stage, config, place)
    if settings.compile and can_compile(place.device):
        stage.net.compile(dynamic=False)

    engine.barrier()  # the run directory is checked before anybody reads it
    checkpoint = run.latest()
    nimg = 0
    if checkpoint:
        engine.load(checkpoint)
        ema.load(checkpoint)
        nimg = nimg_of(checkpoint)
    if nimg >= settings.images:
        engine.close()
        if place.rank == 0:
            print(f"{out}: nothing to do, {nimg:,} of {settings.images:,} images are done")
        return run.bundle

    def save() -> None:
        if place.rank == 0:
            run.draft(nimg)
        engine.barrier()
        draft = run.checkpoints / f"nimg-{nimg:010d}.tmp"
        engine.save(draft)
        engine.barrier()
        if place.rank == 0:
            ema.save(draft)
            run.commit(draft, nimg, settings.keep)
            half_life = settings.ema[0]
            save_bundle(
                run.bundle,
                ema.weights(half_life),
                config=config,
                text_encoder=text_encoder_id(config, reader.index),
                provenance=provenance(config, reader.index, nimg, half_life),
            )
        engine.barrier()

    watch = pictures = None
    if place.rank == 0:
        run.cut_metrics(nimg)
        watch = Watch(run, nimg=nimg, images=settings.images, name=name)
        pictures = held_out(config, data)
    batches = reader.batches(nimg)
    try:
        while nimg < settings.images:
            waiting = time.monotonic()
            batch = next(batches)
            if watch:
                watch.waited(time.monotonic() - waiting)
            lr = lr_at(settings, nimg)
            try:
                update = engine.update(split(batch, micro), lr)
            except NonFiniteError as error:
                raise non_finite(name, nimg, batch, run, error) from None
            before, nimg = nimg, nimg + settings.batch
            ema.update(stage, nimg=nimg, batch=settings.batch)
            last = nimg >= settings.images
            passed = crossed(before, nimg)
            if watch:
                watch.update(update, batch=settings.batch)
                if last or passed(settings.log_every):
                    watch.log(nimg, lr=lr, device=place.device)
                if pictures is not None and (last or passed(settings.grid_every)):
                    draw(ema.module(settings.ema[0]), pictures.to(place.device), run, watch, nimg)
            if last or passed(settings.save_every):
                save()
    finally:
        batches.close()  # type: ignore[attr-defined]
        if watch:
            watch.close()
    engine.close()
    return run.bundle


def can_compile(device: torch.device) -> bool:
    """torch.compile on a CPU needs a C++ compiler; without one the same update runs eagerly."""
    return device.type != "cpu" or any(shutil.which(os.environ.get("CXX", name)) for name in ("c++", "g++", "clang++"))


def make_reader(config: StageConfig, data: str | Path, place: Place) -> Reader:
    return Reader(
        source=data,
        batch=config.train.batch,
        resolution=config.resolution,
        seed=config.train.seed,
        streams=config.train.streams,
        rank=place.rank,
        world=place.world,
        workers=config.train.workers,
        label=config.cond.num_classes > 0,
        text_tokens=config.cond.text.tokens if config.cond.text else 0,
    )


def check_data(config: StageConfig, index: Index) -> None:
    """Is what the data set describes its pictures with what the network takes? Raises ValueError."""
    text, packed = config.cond.text, index.text_encoder
    if text and packed:
        name = Path(packed.id.rpartition("-")[0]).name
        if name != Path(text.encoder).name or packed.dim != text.dim:
            raise ValueError(
                f"data: text features are {packed.id} with {packed.dim} numbers a token, cond.text asks for "
                f"{text.encoder} with {text.dim}; change cond.text, or pack with --text-encoder {text.encoder}"
            )
    if 0 < config.cond.num_classes < len(index.classes or ()):
        raise ValueError(
            f"data: {len(index.classes or ())} classes, cond.num_classes is {config.cond.num_classes}; "
            f"set it to {len(index.classes or ())}"
        )


def micro_batch(config: StageConfig, world: int) -> int:
    """Images of one forward of one rank. Raises ValueError where it does not divide the rank's share."""
    share, micro = config.train.batch // world, config.train.micro_batch
    if micro is None:
        return share
    if share % micro:
        raise ValueError(
            f"train.micro_batch {micro} does not divide {share} = batch {config.train.batch} / {world} processes; "
            f"choose a divisor of {share}"
        )
    return micro


def make_engine(stage: Stage, config: StageConfig, place: Place) -> Engine:
    if place.engine == "deepspeed":
        micro = micro_batch(config, place.world)
        return DeepSpeedEngine(stage, config.train, place.device, zero=place.zero, micro_batch=micro)
    return LocalEngine(stage, config.train, place.device)


def split(batch: Batch, size: int) -> list[Batch]:
    """A batch in micro-batches of `size`."""
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def crossed(before: int, nimg: int) -> Callable[[int], bool]:
    """Whether a multiple of `every` images was reached by this update."""
    return lambda every: before // every != nimg // every


def draw(stage: Stage, pictures: Batch, run: RunDir, watch: Watch, nimg: int) -> None:
    picture = sample_grid(stage, pictures)
    save_picture(picture, run.samples / f"nimg-{nimg:010d}.png")
    watch.grid(picture, nimg)


def text_encoder_id(config: StageConfig, index: Index) -> str | None:
    return index.text_encoder.id if config.cond.text and index.text_encoder else None


def provenance(config: StageConfig, index: Index, nimg: int, half_life: int) -> Provenance:
    classes = tuple(index.classes) if config.cond.num_classes and index.classes else None
    return Provenance(nimg=nimg, ema=half_life, data=index.fingerprint, classes=classes, versions=versions())


def non_finite(name: str, nimg: int, batch: Batch, run: RunDir, error: NonFiniteError) -> RuntimeError:
    """What a person needs to go on after a NaN."""
    good = run.latest()
    keys = ", ".join(batch.keys[:8]) + (", ..." if len(batch.keys) > 8 else "")
    return RuntimeError(
        f"stage {name}: {error} at image {nimg:,} (samples {keys}); nothing was applied; "
        f"the last good checkpoint is {good.name if good else 'none'}"
    )
