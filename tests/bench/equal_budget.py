"""This project beside diffusers and imagen-pytorch at equal budgets: 16 -> 64 px unconditional emoji, judged by cascade.judge.

    python tests/bench/equal_budget.py short --out runs/equal        60 s + 60 s of one core, peers in 20 steps, one seed
    python tests/bench/equal_budget.py long --out runs/equal-long    400 s + 500 s of two cores, peers in their own steps, 3 seeds

Each system trains a base stage and a super-resolution stage on the same pictures, each for the same CPU seconds of --threads
threads, with networks whose parameters differ by at most 2 %, and paints as many pictures. The budget is processor time, not the
wall's: a machine that is busy with other work, as long as it stays so for all systems, then takes as much from each. Reading
data, averages and saves count; imports and probes of speed do not. What each system does stands at the top of its worker in
tests/bench/equal/. Peers are installed by uv into an environment of their own (--peers).

The same command goes on where it was: every part (a stage, the pictures) has a result file, and is not made again. More --systems
and --seeds may be added to the same --out.
"""

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from equal.systems import HERE, SYSTEMS, System, chosen, python_of_peers
from machine import describe, table

from data.cli import run
from data.errors import RunError
from data.files import held, replace_text

ROOT = Path(__file__).parents[2]
EMOJI = ROOT / "data" / "emoji64"
MOST_DIFFERENCE = 0.02  # of parameters, between systems
HEAD = (
    "system", "seed", "parameters", "images", "CPU s", "KID x 1000", "FD - floor", "SWD", "grain", "sharp", "nearer",
    "ms a picture",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is compared, and with what budget."""

    systems: str
    base_s: float
    sr_s: float
    num: int
    steps: int
    seeds: str


FORMS = {
    "short": Form(
        systems="ours,diffusers,diffusers-tuned,imagen,imagen-tuned", base_s=60, sr_s=60, num=320, steps=20, seeds="0"
    ),
    "long": Form(systems=",".join(SYSTEMS), base_s=800, sr_s=1000, num=400, steps=0, seeds="0,1,2"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all systems of one folder share."""

    data: str
    val: float
    base_s: float
    sr_s: float
    num: int
    steps: int
    threads: int
    images: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process to run: `after` are the results that it waits for."""

    result: Path
    after: tuple[Path, ...]
    command: tuple[str, ...]

    @property
    def is_ready(self) -> bool:
        return all(each.exists() for each in self.after)


def main(
    form: Annotated[str, typer.Argument(help="short or long: what the options that are not given are")] = "short",
    out: Annotated[Path, typer.Option(help="folder for data, runs and results")] = Path("runs/equal"),
    data: Annotated[Path, typer.Option(help="folder of square pictures of at least 64 px")] = EMOJI,
    val: Annotated[float, typer.Option(help="share of the pictures that is held out")] = 0.05,
    systems: Annotated[str | None, typer.Option(help="with commas between them")] = None,
    base_s: Annotated[float | None, typer.Option(help="CPU seconds of each base stage")] = None,
    sr_s: Annotated[float | None, typer.Option(help="CPU seconds of each super-resolution stage")] = None,
    num: Annotated[int | None, typer.Option(help="pictures that each system paints")] = None,
    seeds: Annotated[str | None, typer.Option(help="with commas between them")] = None,
    steps: Annotated[
        int | None, typer.Option(help="sampler steps of the peers; 0: their own, 1,000 or tuned 50")
    ] = None,
    images: Annotated[
        str, typer.Option(help="BASE,SR: train ours on so many images instead, for the guard in CI")
    ] = "",
    threads: Annotated[int, typer.Option(help="of each process")] = 1,
    jobs: Annotated[int, typer.Option(help="processes at a time")] = 1,
    nice: Annotated[int, typer.Option(help="niceness of the processes")] = 0,
    peers: Annotated[Path | None, typer.Option(help="environment of the peers; by default OUT/peers")] = None,
) -> None:
    """Train, paint, judge, print a table; run again to go on."""
    from equal.scores import LEAST

    if form not in FORMS:
        raise ValueError(f"{form}: allowed are {' and '.join(FORMS)}")
    given = {"systems": systems, "base_s": base_s, "sr_s": sr_s, "num": num, "seeds": seeds, "steps": steps}
    plan = replace(FORMS[form], **{key: value for key, value in given.items() if value is not None})
    if plan.num < LEAST:
        raise ValueError(f"--num {plan.num}: the judge needs {LEAST} pictures or more")
    if min(plan.base_s, plan.sr_s) <= 0 or min(threads, jobs) < 1 or plan.steps < 0 or not 0 <= nice < 20:
        raise ValueError("seconds, --threads and --jobs are above 0, --steps 0 or more, --nice 0 to 19")
    wanted, numbers = chosen(plan.systems), numbers_of(plan.seeds, "--seeds")
    if images and (len(numbers_of(images, "--images")) != 2 or not all(each.is_ours for each in wanted)):
        raise ValueError(f"--images {images}: BASE,SR are two numbers, and for ours alone: peers train by the budget")
    settings = Settings(
        data=str(data.resolve()), val=val, base_s=plan.base_s, sr_s=plan.sr_s, num=plan.num, steps=plan.steps,
        threads=threads, images=images,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    with held(out / "lock", str(out)):
        keep(out / "settings.json", settings)
        prepare(out / "data", data, val)
        python = None if all(each.is_ours for each in wanted) else python_of_peers((peers or out / "peers").absolute())
        parts = [
            part for seed in numbers for each in wanted for part in parts_of(each, seed, settings, out, python, nice)
        ]
        failed = work(parts, jobs, threads)
        rows = [row for seed in numbers for each in wanted if (row := row_of(each, seed, out))]
        show(rows, out, settings)
    if failed:
        raise RunError(f"{len(failed)} part(s) failed, the first: {failed[0]}")


def numbers_of(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text}: whole numbers with commas between them are needed") from None


def keep(path: Path, settings: Settings) -> None:
    """Store the settings of a folder, or raise ValueError where it was begun with others."""
    if not path.exists():
        replace_text(path, json.dumps(asdict(settings), indent=1) + "\n")
    elif (stored := json.loads(path.read_text())) != asdict(settings):
        changed = [
            f"{key} {stored.get(key)} is now {value}"
            for key, value in asdict(settings).items()
            if stored.get(key) != value
        ]
        raise ValueError(f"{path.parent} was begun with other settings ({', '.join(changed)}); choose another --out")


def prepare(folder: Path, source: Path, val: float) -> None:
    """Pack the pictures into FOLDER/shards, and both splits as arrays, train.npy and held.npy."""
    import numpy as np

    from cascade.judge.side import load_side
    from data.pack.packer import pack
    from data.pack.settings import PackSettings

    if (folder / "held.npy").exists():
        return
    if not (folder / "shards" / "index.json").exists():
        pack(source, folder / "shards", PackSettings(size=64, val=val))
    for split, name in (("train", "train"), ("val", "held")):
        pictures = load_side(str(folder / "shards"), split=split).pictures
        assert pictures is not None
        part = folder / f"part-{name}.npy"
        np.save(part, pictures.numpy())
        part.replace(folder / f"{name}.npy")


def parts_of(
    system: System, seed: int, settings: Settings, out: Path, python: Path | None, nice: int
) -> Iterator[Part]:
    """The processes of one system and seed that have no result yet."""
    from equal.worker import Request

    folder = out / system.runs / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    common = Request(
        part="", data=str(out / "data"), out=str(folder), tuned=system.tuned, raw=bool(system.raw_of), seed=seed,
        num=settings.num, steps=settings.steps, threads=settings.threads, nice=nice,
    )  # fmt: skip
    stages = tuple(folder / f"{part}.json" for part in ("base", "sr"))
    images = numbers_of(settings.images, "--images") if settings.images else (0, 0)
    requests = {
        stages[0]: replace(common, part="base", budget_s=settings.base_s, images=images[0]),
        stages[1]: replace(common, part="sr", budget_s=settings.sr_s, images=images[1]),
        folder / ("raw.json" if system.raw_of else "samples.json"): replace(common, part="sample"),
    }
    for result, request in requests.items():
        if result.exists():
            continue
        path = result.with_name(f"{result.stem}-request.json")
        replace_text(path, json.dumps(asdict(request)))
        interpreter = sys.executable if system.is_ours or not python else str(python)
        after = stages if request.part == "sample" else ()
        yield Part(result=result, after=after, command=(interpreter, str(HERE / system.worker), str(path)))


def work(parts: list[Part], jobs: int, threads: int) -> list[str]:
    """Run the parts, so many at a time, each once; return what failed, with its log."""
    waiting = deque({part.result: part for part in parts}.values())
    running: dict[subprocess.Popen, Part] = {}
    failed: list[str] = []
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    try:
        while waiting or running:
            ready = [part for part in waiting if part.is_ready][: jobs - len(running)]
            for part in ready:
                waiting.remove(part)
                print(f"{part.result.with_suffix('')} ...", flush=True)
                with part.result.with_suffix(".log").open("w") as log:
                    own = environment | ({"PYTHONPATH": str(ROOT)} if part.command[0] == sys.executable else {})
                    running[subprocess.Popen(part.command, stdout=log, stderr=log, env=own)] = part
            if not running:
                failed += [f"{part.result}: a stage of it failed" for part in waiting]
                break
            time.sleep(0.2)
            for process in [each for each in running if each.poll() is not None]:
                part = running.pop(process)
                if process.returncode or not part.result.exists():
                    failed.append(f"{part.result.with_suffix('.log')} (exit code {process.returncode})")
    finally:
        for process in running:
            process.terminate()
            process.wait()
    return failed


def row_of(system: System, seed: int, out: Path) -> dict | None:
    """All numbers of one system and seed; None where its pictures are not there."""
    from equal.scores import LEAST, judged, load_side

    folder = out / system.runs / f"seed{seed}"
    pictures = folder / ("raw.npy" if system.raw_of else "samples.npy")
    if not pictures.with_suffix(".json").exists():
        return None
    results = (folder / "base.json", folder / "sr.json", pictures.with_suffix(".json"))
    base, sr, painting = (json.loads(path.read_text()) for path in results)
    sides = (out / "data" / "train.npy", out / "data" / "held.npy", pictures)
    train, hidden, painted = map(load_side, sides)
    real = hidden if len(hidden.names) >= LEAST else train
    row = asdict(judged(real, train, painted))
    return {
        "system": system.name,
        "seed": seed,
        "base": base,
        "sr": sr,
        "sampling": painting,
        "pictures": str(pictures),
    } | row


def show(rows: list[dict], out: Path, settings: Settings) -> None:
    """Print the table, and write results.json, grid.png and plot.png."""
    from equal.scores import LEAST, load_side

    replace_text(out / "results.json", json.dumps(rows, indent=1) + "\n")
    train, hidden = (len(load_side(out / "data" / name).names) for name in ("train.npy", "held.npy"))
    against = f"{hidden:,} held-out" if hidden >= LEAST else f"the {train:,} training"
    print(
        f"{describe()}\n{settings.base_s:g} + {settings.sr_s:g} CPU s, {settings.threads} thread(s), against {against} pictures"
    )
    print(table(HEAD, map(cells, rows)))
    if not rows:
        return
    check_parameters(rows)
    grid(rows, out)
    plot(rows, out / "plot.png")


def cells(row: dict) -> tuple[str, ...]:
    base, sr, painting = row["base"], row["sr"], row["sampling"]
    return (
        row["system"],
        str(row["seed"]),
        f"{base['parameters'] / 1e6:.2f} + {sr['parameters'] / 1e6:.2f} M",
        f"{base['images']:,} + {sr['images']:,}",
        f"{base['cpu_s']:.0f} + {sr['cpu_s']:.0f}",
        f"{1000 * row['kid']:.1f} ± {1000 * row['kid_error']:.1f}",
        f"{row['fd'] - row['floor']:.4f}",
        f"{row['swd']:.3f}",
        f"{row['grain']:.3f}",
        f"{row['sharpness']:.2f}",
        f"{row['nearer']:.2f}",
        f"{1000 * painting['cpu_s'] / painting['num']:.0f}",
    )


def check_parameters(rows: list[dict]) -> None:
    """Raise RunError where a network differs from the first system's by more than MOST_DIFFERENCE: no comparison then."""
    for part in ("base", "sr"):
        first, *others = ((row["system"], row[part]["parameters"]) for row in rows)
        for name, parameters in others:
            if abs(parameters / first[1] - 1) > MOST_DIFFERENCE:
                raise RunError(
                    f"{part}: {name} has {parameters:,} parameters, {first[0]} {first[1]:,}: more than 2 % apart"
                )


def grid(rows: list[dict], out: Path) -> None:
    """OUT/grid.png: two rows of true pictures, then two of each system, in the table's order."""
    import numpy as np
    import torch
    from torchvision.utils import make_grid, save_image

    paths = [out / "data" / "train.npy", *(Path(row["pictures"]) for row in rows)]
    pictures = torch.cat([torch.from_numpy(np.load(path)[:32]) for path in paths])
    save_image(make_grid(pictures.float() / 255, nrow=16, pad_value=1.0), out / "grid.png")


def plot(rows: list[dict], path: Path) -> None:
    """KID with its error and FD over its floor, a bar each."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: pip install matplotlib")
        return
    figure = Figure(figsize=(9, 0.6 + 0.4 * len(rows)), layout="constrained")
    names = [f"{row['system']} ({row['seed']})" for row in rows]
    values: tuple[tuple[str, Callable[[dict], float]], ...] = (
        ("KID x 1000", lambda row: 1000 * row["kid"]),
        ("FD - floor", lambda row: row["fd"] - row["floor"]),
    )
    for axes, (title, value) in zip(figure.subplots(1, 2, sharey=True), values, strict=True):
        errors = [1000 * row["kid_error"] for row in rows] if title.startswith("KID") else None
        axes.barh(names, [value(row) for row in rows], xerr=errors, color="tab:blue")
        axes.set_xlabel(f"{title} (lower is better)")
        axes.invert_yaxis()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    run(main)
