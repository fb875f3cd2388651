"""Command: list every run directory below a folder with its state and progress, as a table, as JSON, as curves.

    python -m stages.runs runs                     python -m stages.runs runs --plot runs.png

A run is `running` while a process holds its run.lock, `done` when it has seen all its images, `stopped` before that, `empty` while
it has logged nothing. Unreadable folders are named and skipped.
"""

import fcntl
import json
import os
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from data.cli import run
from data.line import say

CURVES = {"loss": "loss", "val_loss": "validation loss", "grad_norm": "gradient norm", "img_per_s": "images a second"}
SCORES = {"score_kid": "KID by look", "score_match": "match", "score_swd": "SWD, finest level"}  # where a run has them
SMOOTH = 0.9  # weight of the past in a smoothed curve
FLOCK = "hhqqi"  # struct flock of Linux: type, whence, start, length, pid


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run directory. age_s: seconds since its last log line; losses: the last logged ones, None if there are none.
    linear_floor: validation loss of a linear filter; above_floor: whether no validation after the warm-up was better."""

    name: str
    state: str
    nimg: int
    images: int
    img_per_s: float | None
    loss: float | None
    val_loss: float | None
    age_s: float | None
    checkpoint_bytes: int
    kid: float | None = None
    match: float | None = None
    linear_floor: float | None = None
    above_floor: bool = False


Lines = list[dict[str, Any]]


def main(
    folder: Annotated[Path, typer.Argument(help="folder with run directories below it")],
    plot: Annotated[Path | None, typer.Option(help="draw the curves of all runs into this picture")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
) -> None:
    """List the runs below a folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the --out of train.py, or a folder above it")
    loaded: list[tuple[RunSummary, Lines]] = []
    for path in run_folders(folder):
        try:
            lines = read_lines(path)
            loaded.append((summary(path, str(path.relative_to(folder)), lines), lines))
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{path}: left out, not readable as a run ({type(error).__name__}: {error})", sys.stderr)
    if not loaded:
        raise ValueError(f"{folder}: no run directory in it or below it (one has config.json and metrics.jsonl)")
    summaries = [entry for entry, _ in loaded]
    say(json.dumps([asdict(entry) for entry in summaries], indent=2) if as_json else table(summaries))
    for entry in summaries:
        if entry.above_floor and not as_json:
            say(
                f"{entry.name}: its validation loss stays above {entry.linear_floor:.4f}, that of a linear filter without any "
                "network: look at the learning rate, the data and the length (stages/README.md, The linear floor)"
            )
    if plot:
        draw({entry.name: lines for entry, lines in loaded}, plot)


def run_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders that train.py made, sorted by name, without searching inside them."""
    for path, names, files in os.walk(folder):
        names.sort()
        if "config.json" in files and ("metrics.jsonl" in files or "checkpoints" in names):
            names.clear()
            yield Path(path)


def read_lines(path: Path) -> Lines:
    """Read the log lines of a run, without a last one that is still incomplete. Raises ValueError for other broken lines."""
    metrics = path / "metrics.jsonl"
    if not metrics.exists():
        return []
    try:
        lines = [json.loads(line) for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a line of metrics.jsonl is not JSON, {error}; remove it") from None
    if any(not isinstance(line, dict) or not isinstance(line.get("nimg"), int) for line in lines):
        raise ValueError("a line of metrics.jsonl has no nimg; remove it")
    return lines


def summary(path: Path, name: str, lines: Lines) -> RunSummary:
    """Summarise a run from its files."""
    try:
        train = json.loads((path / "config.json").read_text())["config"]["train"]
        images, warmup = int(train["images"]), int(train.get("warmup", 0))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"config.json is damaged, {type(error).__name__}: {error}; restore it") from None
    nimg = lines[-1]["nimg"] if lines else 0
    state = "done" if nimg >= images else "stopped" if lines else "empty"
    return RunSummary(
        name=name,
        state="running" if is_locked(path / "run.lock") else state,
        nimg=nimg,
        images=images,
        img_per_s=last(lines, "img_per_s"),
        loss=last(lines, "loss"),
        val_loss=last(lines, "val_loss"),
        age_s=max(time.time() - (path / "metrics.jsonl").stat().st_mtime, 0.0) if lines else None,
        checkpoint_bytes=size_of(path / "checkpoints"),
        kid=last(lines, "score_kid"),
        match=last(lines, "score_match"),
        linear_floor=last(lines, "linear_floor"),
        above_floor=stays_above(lines, warmup),
    )


def stays_above(lines: Lines, warmup: int) -> bool:
    """Whether there are validations after the warm-up, and none of them is below the linear floor."""
    pairs = [
        (line["val_loss"], line["linear_floor"])
        for line in lines
        if line["nimg"] > warmup and line.get("val_loss") is not None and line.get("linear_floor") is not None
    ]
    return bool(pairs) and all(loss > floor for loss, floor in pairs)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the record lock of this file. The lock is only queried, never taken, so that a run starting
    at this moment is not turned away."""
    try:
        with path.open("rb") as file:
            request = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            return struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, request))[0] != fcntl.F_UNLCK
    except FileNotFoundError:
        return False


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; files deleted meanwhile count as 0."""
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.stat(os.path.join(path, name)).st_size
            except FileNotFoundError:
                continue
    return total


def last(lines: Lines, key: str) -> float | None:
    """The last value of `key` that is not None, or None."""
    return next((line[key] for line in reversed(lines) if line.get(key) is not None), None)


def table(runs: list[RunSummary]) -> str:
    """Format runs as aligned text, one a line."""
    rows: list[tuple[str, ...]] = [
        ("run", "state", "images", "of", "", "img/s", "loss", "val loss", "last line", "checkpoints")
    ]
    for entry in runs:
        percent = f"{100 * entry.nimg / entry.images:.0f} %"
        rows.append(
            (
                entry.name,
                entry.state,
                f"{entry.nimg:,}",
                f"{entry.images:,}",
                percent,
                "-" if entry.img_per_s is None else f"{entry.img_per_s:.3g}",
                "-" if entry.loss is None else f"{entry.loss:.4f}",
                "-" if entry.val_loss is None else f"{entry.val_loss:.4f}",
                "-" if entry.age_s is None else f"{age(entry.age_s)} ago",
                f"{entry.checkpoint_bytes / 1e6:,.1f} MB",
            )
        )
    columns = (
        ("linear floor", [entry.linear_floor for entry in runs]),
        ("KID", [entry.kid for entry in runs]),
        ("match", [entry.match for entry in runs]),
    )
    for title, values in columns:
        if any(value is not None for value in values):
            cells = ["-" if value is None else f"{value:.4f}" for value in values]
            rows = [(*row, cell) for row, cell in zip(rows, (title, *cells), strict=True)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if k < 2 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def age(seconds: float) -> str:
    """Format a duration as a whole number of its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def draw(runs: dict[str, Lines], path: Path) -> None:
    """Plot curves over images seen: a panel for each of CURVES, a colour a run; noisy curves faint, with a smoothed one on top."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
    except ImportError:
        raise ValueError(
            "--plot needs matplotlib; install it with: uv sync --inexact --extra plot, or pip install matplotlib"
        ) from None
    scored = {
        key: title for key, title in SCORES.items() if any(key in line for lines in runs.values() for line in lines)
    }
    curves = CURVES | scored
    num_rows = -(-len(curves) // 2)
    figure = Figure(figsize=(12, 3.75 * num_rows), layout="constrained")
    panels = list(figure.subplots(num_rows, 2, sharex=True).flat)
    for empty in panels[len(curves) :]:
        empty.set_axis_off()
    for panel, (key, title) in zip(panels, curves.items(), strict=False):
        for index, (name, lines) in enumerate(runs.items()):
            points = [(line["nimg"], line[key]) for line in lines if line.get(key) is not None]
            nimg, values = [p[0] for p in points], [p[1] for p in points]
            style = {"color": f"C{index % 10}", "linestyle": ("-", "--", ":")[index // 10 % 3]}
            if key in ("val_loss", *SCORES) or len(values) < 20:
                panel.plot(nimg, values, label=name, marker="o", markersize=3, **style)
            else:
                panel.plot(nimg, values, alpha=0.25, linewidth=0.8, **style)
                panel.plot(nimg, smoothed(values), label=name, **style)
            if key == "val_loss" and (floor := last(lines, "linear_floor")) is not None:
                panel.axhline(floor, color=style["color"], linestyle=":", linewidth=1.2)
                panel.annotate(
                    "linear floor", (0.995, floor), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8,
                    color=style["color"],
                )  # fmt: skip
        if key in SCORES:
            pass  # KID may be negative, and a match ends at 1
        elif key != "img_per_s" and any(line.get(key) for lines in runs.values() for line in lines):
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
        elif key == "img_per_s":
            panel.set_ylim(bottom=0)
        else:
            panel.text(0.5, 0.5, "none logged", transform=panel.transAxes, ha="center", va="center", color="0.5")
        panel.set_title(title, loc="left", fontsize=11)
        panel.grid(alpha=0.3, which="both", linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.tick_params(labelbottom=True)
    figure.supxlabel("images seen", fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5), frameon=False)
    figure.savefig(path, dpi=120)


def smoothed(values: list[float]) -> list[float]:
    """Exponential moving average, corrected for its start at zero."""
    mean, weight, means = 0.0, 0.0, []
    for value in values:
        mean, weight = SMOOTH * mean + (1 - SMOOTH) * value, SMOOTH * weight + 1 - SMOOTH
        means.append(mean / weight)
    return means


if __name__ == "__main__":
    run(main)
