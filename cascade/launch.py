"""Train all stages of a cascade at once, each as an independent `train.py` on its own devices and shards.

    python -m cascade.launch emoji --data shards/emoji_64 --data sr_128=shards/emoji_128 --out runs/emoji \
        --stage base_16=0,1 --stage sr_64=2 --stage sr_128=3 -- --zero=1 stages.base_16.train.lr=3e-3

Arguments after -- are passed to train.py: its options as --key=value, and overrides. Each stage logs to OUT/STAGE.log; a stage that
fails does not stop the others. Ctrl-C and SIGTERM are passed on, and all save before they end. The same command resumes.
"""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from data.cli import LINE_EVERY_S, run
from data.errors import RunError
from data.line import say
from stages.runs import read_lines, summary
from stages.training.signals import StopSignals
from stages.training.threads import share_of

from .config import CascadeConfig, load_config, stage_of
from .manifest import write_manifest
from .train.process import OF_LAUNCHERS, TRAIN, TrainingProcess
from .train.slurm import batch_script

POLL_S = 0.2
STAGE_NAME = re.compile(r"\w[\w-]*")  # of a stage; does not match an address of shards


@dataclass(frozen=True, kw_only=True)
class StageCommand:
    """How one stage is trained: number of processes, GPUs as CUDA_VISIBLE_DEVICES names them (none: as in the environment),
    arguments of train.py."""

    stage: str
    processes: int
    devices: tuple[str, ...]
    arguments: tuple[str, ...]


def main(
    cascade: Annotated[str, typer.Argument(help="a shipped cascade's name, or a YAML file")],
    more: Annotated[list[str] | None, typer.Argument(help="after --: options and overrides for train.py")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="shards of all stages, or STAGE=SHARDS of one; may be repeated")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the cascade; runs go to OUT/STAGE")] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="STAGE, or STAGE=0,1 with its GPUs; default: all stages")
    ] = None,
    nproc: Annotated[int, typer.Option(help="processes of a stage without GPUs; with --slurm: of each node")] = 1,
    nodes: Annotated[int, typer.Option(help="with --slurm: nodes of each stage")] = 1,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="check all, print a batch script for sbatch, start nothing")
    ] = False,
    data_on_nodes: Annotated[
        bool, typer.Option(help="with --slurm: only the nodes can read the shards, leave them unchecked")
    ] = False,
) -> None:
    """Train the stages of a cascade at once, as independent jobs."""
    if not data or out is None:
        raise ValueError("cascade.launch needs --data SHARDS and --out FOLDER")
    if nproc < 1 or nodes < 1:
        raise ValueError(f"--nproc {nproc}, --nodes {nodes}: both are at least 1")
    config = load_config(cascade, [argument for argument in more or [] if not argument.startswith("-")])
    commands = stage_commands(config, cascade, data=data, out=out, stages=stage or [], nproc=nproc, more=more or [])
    if slurm:
        check_commands(commands, world=nodes * nproc, data=not data_on_nodes)
        say(
            batch_script(
                config.name,
                [(command.stage, command.arguments) for command in commands],
                out=out,
                nodes=nodes,
                tasks=nproc,
            )
        )
        return
    commands = spread(commands, visible_gpus())
    write_manifest(config, out)
    processes = sum(command.processes for command in commands)
    trainings = [
        TrainingProcess(
            command.stage,
            command.arguments,
            out / f"{command.stage}.log",
            processes=command.processes,
            devices=command.devices,
            threads=0 if command.devices or processes == 1 else share_of(out / command.stage, processes),
        )
        for command in commands
    ]
    run_all(config, trainings, out)


def run_all(config: CascadeConfig, trainings: list[TrainingProcess], out: Path) -> bool:
    """Run all to their end; False if a signal stopped them early. Raises RunError if one failed, and after a Ctrl-C
    KeyboardInterrupt, once all have saved."""
    caught = watch(config, trainings, out)
    failed = [training for training in trainings if not training.ended_well]
    if failed:
        message = "; ".join(
            f"stage {training.stage} failed ({training.log}): {training.last_line()}" for training in failed
        )
        raise RunError(message, 2 if all(training.code == 2 for training in failed) else 1)
    if caught == signal.SIGINT:
        raise KeyboardInterrupt
    return caught is None


def stage_commands(
    config: CascadeConfig, cascade: str, *, data: list[str], out: Path, stages: list[str], nproc: int, more: list[str]
) -> list[StageCommand]:
    """The trainings to start, in the order of the chain. Raises ValueError for unknown stages, missing shards, GPUs given twice."""
    devices = {name: tuple(filter(None, gpus.split(","))) for name, _, gpus in (spec.partition("=") for spec in stages)}
    devices = devices or dict.fromkeys(config.stages, ())
    shards = shards_of(config, data)
    owners: dict[str, str] = {}
    for name, gpus in devices.items():
        stage_of(config, name)
        if name not in shards:
            raise ValueError(f"stage {name} has no shards; add --data {name}=SHARDS, or --data SHARDS for all")
        for gpu in gpus:
            if gpu in owners:
                raise ValueError(f"GPU {gpu} is given to stage {owners[gpu]} and to stage {name}; each needs its own")
            owners[gpu] = name
    commands = []
    for name in (name for name in config.stages if name in devices):
        arguments = (cascade, name, "--data", shards[name], "--out", str(out), *more)
        commands.append(
            StageCommand(stage=name, processes=len(devices[name]) or nproc, devices=devices[name], arguments=arguments)
        )
    return commands


def shards_of(config: CascadeConfig, data: list[str]) -> dict[str, str]:
    """Map each stage to its shards: STAGE=SHARDS is for that stage, a value without a name for all stages that have no own one.
    Raises ValueError."""
    named, general = {}, []
    for option in data:
        name, _, place = option.partition("=")
        if place and STAGE_NAME.fullmatch(name):
            named[name] = place
            stage_of(config, name)
        else:
            general.append(option)
    if len(general) > 1:
        raise ValueError(f"--data {general[0]} and --data {general[1]} are both for all stages; write STAGE=SHARDS")
    return dict.fromkeys(config.stages, general[0]) | named if general else named


def check_commands(commands: list[StageCommand], *, world: int, data: bool) -> None:
    """Check the arguments of each stage, for `world` processes, with `train.py --dry-run`. data: with its shards. Raises
    ValueError with all errors."""
    environment = {key: value for key, value in os.environ.items() if key not in OF_LAUNCHERS}
    checks = []
    for command in commands:
        arguments = [*command.arguments[:2], *command.arguments[2 if data else 4 :], "--dry-run", f"--world={world}"]
        line = [sys.executable, str(TRAIN), *arguments]
        checks.append(
            subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[1].strip().splitlines() for process in checks]
    errors = [
        f"stage {command.stage}: {(lines or ['it fails'])[-1].removeprefix('error: ')}"
        for command, process, lines in zip(commands, checks, outputs, strict=True)
        if process.returncode
    ]
    if errors:
        raise ValueError("; ".join(errors))


def spread(commands: list[StageCommand], gpus: list[str]) -> list[StageCommand]:
    """Divide the free GPUs equally among the stages that have none. Raises ValueError if there are too few."""
    free = [gpu for gpu in gpus if not any(gpu in command.devices for command in commands)]
    waiting = [command for command in commands if not command.devices]
    if not gpus or not waiting:
        return commands
    count = len(free) // len(waiting)
    if not count:
        raise ValueError(
            f"{len(waiting)} stages wait for GPUs and {len(free)} of {len(gpus)} are free; train fewer at once with --stage"
        )
    shares = {command.stage: tuple(free[k * count : (k + 1) * count]) for k, command in enumerate(waiting)}
    return [
        replace(command, devices=shares[command.stage], processes=count) if command.stage in shares else command
        for command in commands
    ]


def visible_gpus() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    gpus = [str(k) for k in range(torch.cuda.device_count())]
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[: len(gpus)] if listed else gpus


def watch(config: CascadeConfig, trainings: list[TrainingProcess], out: Path) -> int | None:
    """Start all and wait for their end, printing their progress. A signal is passed on, a second one kills them. Returns the
    signal, or None."""
    board = Board(config, trainings, out)
    with StopSignals(second_ends=False) as signals:
        try:
            for training in trainings:
                training.start()
            while board.show():
                time.sleep(POLL_S)
                for training in trainings:
                    if signals.again:
                        training.kill()
                    elif signals.caught is not None:
                        training.tell(signal.SIGTERM)
        finally:
            for training in trainings:
                training.kill()
    return signals.caught


class Board:
    """Progress of the trainings: a line per stage when one starts or ends and every LINE_EVERY_S, and up to which stage the
    cascade can be sampled."""

    def __init__(self, config: CascadeConfig, trainings: list[TrainingProcess], out: Path):
        self.config, self.trainings, self.out = config, trainings, out
        self.running: list[bool] = []
        self.lines: set[str] = set()
        self.reach, self.shown_at = "", 0.0

    def show(self) -> bool:
        """Print what has changed. Returns whether any training still runs."""
        running = [training.is_running for training in self.trainings]
        if running != self.running or time.monotonic() - self.shown_at > LINE_EVERY_S:
            lines = [status(training, self.out) for training in self.trainings]
            for line in lines:
                if line not in self.lines:
                    say(line)
            self.running, self.lines, self.shown_at = running, set(lines), time.monotonic()
        reach = reached(self.config, self.out)
        if reach != self.reach:
            say(f"{self.out} can be sampled: python sample.py --cascade {self.out} --until {reach}")
            self.reach = reach
        return any(running)


def status(training: TrainingProcess, out: Path) -> str:
    """One line about a stage: its state, images seen and, if known, its loss."""
    state = "running" if training.is_running else "ended" if training.ended_well else f"failed, see {training.log}"
    try:
        progress = summary(out / training.stage, training.stage, read_lines(out / training.stage))
    except (OSError, ValueError, KeyError, TypeError):
        return f"{training.stage}: {state}, no image yet"
    line = f"{training.stage}: {state}, {progress.nimg:,} of {progress.images:,} img"
    return line + (f", loss {progress.loss:.4f}" if progress.loss is not None else "")


def reached(config: CascadeConfig, out: Path) -> str:
    """The last stage such that it and all stages before it have a bundle, or "" if there is none."""
    last = ""
    for name in config.stages:
        if not (out / name / "bundle" / "stage.json").exists():
            break
        last = name
    return last


if __name__ == "__main__":
    run(main)
