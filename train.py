"""Train one stage of a cascade on its own shards.

    python train.py emoji base_16 --data shards/emoji_64 --out runs/emoji
    deepspeed --num_gpus 8 train.py ...      torchrun --nproc-per-node 8 train.py ...

The same command resumes, with any number of processes and any ZeRO stage. On SIGTERM, SIGUSR1, SIGHUP and when its launcher ends it
saves and exits with 0, for a requeue.
Overrides are dotted keys: stages.base_16.train.lr=3e-3
"""

import json
import os
from pathlib import Path
from typing import Annotated

from data.line import say
from stages.training.signals import StopSignals

SIGNALS = StopSignals(at_once=os.environ.get("WORLD_SIZE", "1") == "1")
if __name__ == "__main__":
    SIGNALS.__enter__()  # before the slow imports

import typer  # noqa: E402

from data.cli import run  # noqa: E402


def main(
    cascade: Annotated[str, typer.Argument(help="a shipped cascade's name, or a YAML file")],
    stage: Annotated[str, typer.Argument(help="the stage to train")],
    overrides: Annotated[list[str] | None, typer.Argument(help="dotted overrides, stages.STAGE.train.lr=3e-4")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="shards: folder, pattern or address; several are mixed, PLACE=WEIGHT")
    ] = None,
    val_data: Annotated[list[str] | None, typer.Option(help="held-out shards, if not the val split of --data")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the cascade; the run goes to OUT/STAGE")] = None,
    images: Annotated[int, typer.Option(help="train until so many images were seen; 0: as in the config")] = 0,
    minutes: Annotated[
        float,
        typer.Option(help="train for so long: images, rate, warm-up and half-life follow from the speed measured here"),
    ] = 0.0,
    init: Annotated[
        Path | None, typer.Option(help="bundle whose weights a new run starts from; its licence is inherited")
    ] = None,
    engine: Annotated[str, typer.Option(help="deepspeed, local, or auto: deepspeed under a launcher")] = "auto",
    zero: Annotated[int, typer.Option(help="DeepSpeed's ZeRO stage, 0 to 3")] = 0,
    offload: Annotated[bool, typer.Option(help="DeepSpeed: optimizer state in host memory")] = False,
    deepspeed_file: Annotated[Path | None, typer.Option(help="DeepSpeed JSON, laid over what the config gives")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto")] = "auto",
    resume: Annotated[str, typer.Option(help="auto, latest, best, or a checkpoint's name")] = "auto",
    allow_change: Annotated[list[str] | None, typer.Option(help="config key that may differ from the run's")] = None,
    lower: Annotated[Path | None, typer.Option(help="bundle of the stage below: validate on its pictures, too")] = None,
    wandb: Annotated[str, typer.Option(help="Weights & Biases project to log to")] = "",
    allow_pipe: Annotated[bool, typer.Option(help="let --data pipe:COMMAND run COMMAND")] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="folder for shards fetched from addresses")] = None,
    cache_gb: Annotated[float, typer.Option(help="most that this folder may hold")] = 50.0,
    norms: Annotated[bool, typer.Option(help="log magnitudes of weights and activations with every grid")] = False,
    timeout_s: Annotated[float, typer.Option(help="how long a rank waits for the others")] = 1800.0,
    dry_run: Annotated[
        bool, typer.Option(help="print parameters, FLOPs and memory, check --data and --world, train nothing")
    ] = False,
    measure: Annotated[bool, typer.Option(help="with --dry-run: measure images a second here")] = False,
    world: Annotated[int, typer.Option(help="with --dry-run: plan for so many processes, a device each")] = 1,
    local_rank: Annotated[int, typer.Option("--local_rank", "--local-rank", hidden=True)] = 0,
) -> None:
    """Train one stage of a cascade; run the same command again to resume."""
    from cascade.config import load_config, stage_of
    from data.cpus import Use
    from stages.training.launcher import stop_with_launcher
    from stages.training.length import check_minutes

    stop_with_launcher()
    cpu_use = Use.now()
    if minutes:
        check_minutes(minutes)
    if not 0 < cache_gb < 1e9:
        raise ValueError(f"--cache-gb {cache_gb:g}: gigabytes above 0 are needed")
    if world < 1:
        raise ValueError(f"--world {world}: at least one process trains; give 1 or more")
    if minutes and dry_run:
        raise ValueError(
            "--minutes: a dry run measures nothing to make a length of; add --measure, which says how long it takes"
        )
    if images:
        overrides = [*(overrides or []), f"stages.{stage}.train.images={images}"]
    if init:
        overrides = [*(overrides or []), f"stages.{stage}.train.init={json.dumps(str(init))}"]
    stage_of(load_config(cascade), stage)
    config = load_config(cascade, overrides)
    if not dry_run and (not data or out is None):
        raise ValueError("train.py needs --data SHARDS (from data.pack) and --out FOLDER")

    from cascade.judge.training import stage_score
    from cascade.manifest import check_folder, write_manifest
    from cascade.train.minutes import length_in
    from data.places.address import Access
    from data.read.mixture import parse
    from stages.training.checks import checked_reader
    from stages.training.deepspeed_settings import DeepSpeedSettings, read_user_file
    from stages.training.loop import train
    from stages.training.rundir import check_allowed
    from stages.training.runtime import Options
    from stages.training.threads import settle_threads
    from stages.training.validate import check_lower
    from stages.training.watch import check_wandb

    access = Access(allow_pipe=allow_pipe, cache_dir=cache_dir, cache_bytes=int(cache_gb * 1e9))
    user_settings = read_user_file(deepspeed_file) if deepspeed_file else None
    settings = DeepSpeedSettings(zero=zero, offload=offload, user=user_settings, timeout_s=timeout_s)
    if dry_run:  # the devices of the plan need not exist here
        if world > 1 and engine == "local":
            raise ValueError(f"--engine local is one process, --world is {world}; use --engine deepspeed")
        runtime = find_runtime(engine, "auto" if device == "cuda" and not measure else device)
    else:
        runtime = find_runtime(engine, device, settings)
    stage_config = stage_of(config, stage)
    shards, val_shards = parse(data, access) if data else None, parse(val_data, access) if val_data else None
    check_allowed(stage_config, allow_change or ())
    if wandb:
        check_wandb()
    if lower and shards:
        check_lower(stage_config, lower, val_shards or shards)
    if out:
        check_folder(config, out)
    if dry_run:
        return show_plan(config, stage, world, measure, runtime.device, shards, val_shards, zero)
    assert shards is not None
    assert out is not None
    if runtime.device.type == "cpu":
        settle_threads(out / stage, cpu_use)
    if minutes:
        if images and not (out / stage / "checkpoints").exists():
            raise ValueError(f"--minutes {minutes:g} and --images {images}: each says how long to train; leave one out")
        _, micro = checked_reader(stage_config, shards, rank=runtime.rank, world=runtime.world, elementwise=zero > 0)
        length = length_in(
            minutes,
            stage_config,
            out / stage,
            micro=micro,
            device=runtime.device,
            rank=runtime.rank,
            world=runtime.world,
        )
        config = load_config(cascade, [*length.overrides(stage), *(overrides or [])])
        stage_config = stage_of(config, stage)
    options = Options(
        resume=resume,
        allow=tuple(allow_change or ()),
        lower=lower,
        wandb=wandb,
        norms=norms,
        val_data=val_shards,
        checked=lambda: write_manifest(config, out),
        signals=SIGNALS,
        scoring=stage_score if stage_config.train.score_every else None,
    )
    bundle = train(stage_config, name=stage, data=shards, out=out / stage, runtime=runtime, options=options)
    if runtime.rank == 0:
        say(f"bundle: {bundle}")


def show_plan(config, stage: str, world: int, measure: bool, device, data, held, zero: int) -> None:
    """Print what a training would cost; with data, check first that it would start in `world` processes. Raises ValueError."""
    from cascade.config import stage_of
    from cascade.train.costs import print_costs, print_sharing
    from stages.bundle import read_sidecar
    from stages.training.checks import checked_reader
    from stages.training.controlled import beside
    from stages.training.start import check_fits

    stage_config = beside(stage_of(config, stage))
    sharing = checked_reader(stage_config, data, rank=0, world=world, held=held, elementwise=zero > 0) if data else None
    if sharing and stage_config.train.init:
        check_fits(stage_config, sharing[0].index, read_sidecar(Path(stage_config.train.init)))
    print_costs(config, stage, world=world, measure=measure, device=device)
    if sharing:
        print_sharing(*sharing)


def find_runtime(engine: str, device: str, settings=None):
    """This process's rank and device, from the launcher's environment and the options. Raises ValueError."""
    import torch

    from stages.training.deepspeed_settings import DeepSpeedSettings
    from stages.training.runtime import Runtime

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if engine == "auto":
        engine = "deepspeed" if "WORLD_SIZE" in os.environ else "local"
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: allowed are cpu, cuda and auto")
    if engine not in ("deepspeed", "local"):
        raise ValueError(f"--engine {engine}: allowed are deepspeed, local and auto")
    if engine == "local" and world > 1:
        raise ValueError(f"--engine local is one process, the launcher started {world}; use --engine deepspeed")
    settings = settings or DeepSpeedSettings()
    if engine == "local" and (settings.zero or settings.user):
        raise ValueError("--zero, --offload and --deepspeed-file need --engine deepspeed")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch_device = (
        torch.device(device, int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device(device)
    )
    if torch_device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("--device cuda: no GPU is visible to torch; use --device cpu")
        torch.cuda.set_device(torch_device)
    else:
        torch.set_flush_denormal(True)  # a zero-initialised gain gives denormals, which are 30 times slower on a CPU
    return Runtime(
        engine=engine, rank=int(os.environ.get("RANK", "0")), world=world, device=torch_device, deepspeed=settings
    )


if __name__ == "__main__":
    run(main)
