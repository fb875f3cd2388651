"""KID against network calls, for every sampler: which one paints best with how many calls.

    python tests/bench/calls.py runs/emoji base_16 --data shards/emoji_64 --out calls.png

One picture for each of a split's conditions (a super-resolution stage gets THE downsample of the true picture), with the
manifest's other settings; KID by the judge's features of looks against the true pictures, and beside it the std that its jackknife
says. A sampler has the most steps whose calls fit. The numbers go into a .json beside the plot; what is there is not made again.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from data.cli import run
from data.line import say
from stages.diffusion.samplers import SAMPLERS, num_queries

CALLS = (4, 7, 14, 28, 63)


def fitting(sampler: str, calls: int) -> int:
    """The most steps of a sampler whose queries are at most `calls`; 0 if not even one step fits."""
    return next((num for num in range(calls, 0, -1) if num_queries(sampler, num) <= calls), 0)


def plot(found: dict[str, list[dict[str, float]]], title: str, out: Path) -> None:
    """A line a sampler, KID over calls (logarithmic), and the standard error as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for number, (sampler, points) in enumerate(found.items()):
        calls, kid, error = ([point[name] for point in points] for name in ("calls", "kid", "error"))
        style = {"marker": "osD^v"[number % 5], "linestyle": "-" if number < 10 else "--", "markersize": 4}
        axes.errorbar(calls, kid, yerr=error, label=sampler, capsize=2, linewidth=1, **style)
    axes.set_yscale("symlog", linthresh=3e-4)  # straight where KID is of the size of its error
    axes.set(xscale="log", xlabel="network calls a picture", ylabel="KID", title=title)
    axes.set_xticks(CALLS, [str(tick) for tick in CALLS])
    axes.minorticks_off()
    axes.legend(ncols=2, fontsize="small")
    figure.savefig(out, dpi=120)


def main(
    cascade: Annotated[Path, typer.Argument(help="the --out of train.py")],
    stage: Annotated[str, typer.Argument(help="the stage that samples")],
    data: Annotated[Path, typer.Option(help="shards of true pictures, at least 320")],
    split: Annotated[str, typer.Option(help="val, or train where that is too small")] = "val",
    out: Annotated[Path, typer.Option(help="the plot, a .png")] = Path("calls.png"),
    limit: Annotated[int, typer.Option(help="pictures at the most")] = 512,
    calls: Annotated[list[int] | None, typer.Option(help="network calls a picture; may be repeated")] = None,
    sampler: Annotated[list[str] | None, typer.Option(help="only these; may be repeated")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
) -> None:
    """KID against calls."""
    from cascade.judge.kernel import kernel_distance
    from tests.bench.painting import Conditions, features

    conditions = Conditions.load(cascade, stage, data, split=split, limit=limit, device=device, precision=precision)
    real = features(conditions.true)
    stored = out.with_suffix(".json")
    found: dict[str, list[dict[str, float]]] = json.loads(stored.read_text()) if stored.exists() else {}
    for name in sampler or list(SAMPLERS):
        if name not in SAMPLERS:
            raise ValueError(f"--sampler {name}: there are {', '.join(SAMPLERS)}")
        for most in calls or CALLS:
            num_steps = fitting(name, most)
            used = num_queries(name, num_steps) if num_steps else 0
            points = found.setdefault(name, [])
            if not num_steps or used in [point["calls"] for point in points]:
                continue
            changes: dict[str, Any] = {"sampler": name, "num_steps": num_steps}
            kid = kernel_distance(real, features(conditions.painted(**changes)))
            points.append({"calls": used, "kid": kid.value, "error": kid.error})
            points.sort(key=lambda point: point["calls"])
            stored.write_text(json.dumps(found, indent=1) + "\n")
            say(f"{name:14} {used:4} calls  KID {kid.value:9.5f} +- {kid.error:.5f}")
    plot(found, f"{stage}, {len(real)} pictures", out)


if __name__ == "__main__":
    run(main)
