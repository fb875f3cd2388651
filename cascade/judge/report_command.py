"""Command: python -m cascade.judge report CASCADE --data SHARDS --out report.html"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from data.line import say


def report_main(
    cascade: Annotated[Path, typer.Argument(help="a folder of bundles: the --out of train.py")],
    data: Annotated[str, typer.Option(help="shards with the conditions of the cascade")] = "",
    out: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("report.html"),
    split: Annotated[str, typer.Option(help="of the data: the pictures whose conditions are sampled")] = "val",
    num: Annotated[int, typer.Option(help="most pictures; 0: all of the split")] = 0,
    num_curve: Annotated[int, typer.Option(help="of them, for each point of a curve")] = 48,
    num_training: Annotated[int, typer.Option(help="most training pictures to look for neighbours in")] = 10_000,
    levels: Annotated[
        str, typer.Option(help="aug_sigma of each super-resolution stage; none: no curve")
    ] = "0,0.1,0.2,0.4",
    steps: Annotated[str, typer.Option(help="steps of each stage; none: no curve")] = "1,2,4,8",
    guidance: Annotated[str, typer.Option(help="guidance of each stage with conditions; none: no curve")] = "1,2,4",
    ruler: Annotated[
        Path | None, typer.Option(help="of things and styles, B.safetensors to report by: right thing, right style")
    ] = None,
    seed: Annotated[int, typer.Option(help="of sampling and of the scores")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    inception: Annotated[Path | None, typer.Option(help="as of score: FID and IS, too")] = None,
    lpips: Annotated[
        list[Path] | None, typer.Option(help="as of score: of each sample and the true picture of its condition")
    ] = None,
    encoder: Annotated[Path | None, typer.Option(help="as of score: do pictures show their captions?")] = None,
    sha256: Annotated[list[str] | None, typer.Option(help="of a weights' file to trust; may be repeated")] = None,
    json: Annotated[Path | None, typer.Option(help="write all numbers to this file, too")] = None,
    csv: Annotated[Path | None, typer.Option(help="write the numbers of each picture to this file, too")] = None,
) -> None:
    """Write a report of a cascade on held-out pictures: one HTML file with scores, curves, samples, neighbours and failures."""
    from json import dumps

    import torch

    from cascade.engine.devices import choose_device
    from cascade.judge.each import as_csv
    from cascade.judge.local import Files, Networks
    from cascade.judge.page import page
    from cascade.judge.report import Wanted, make_report
    from cascade.judge.ruler_file import load_ruler
    from cascade.manifest import read_manifest
    from cascade.pipeline import Cascade
    from data.files import replace_text

    if not data:
        raise ValueError("--data SHARDS is needed: whose pictures and conditions the cascade is judged on")
    for name, number, fewest in (("num", num, 0), ("num-curve", num_curve, 4), ("num-training", num_training, 2)):
        if number < fewest:
            raise ValueError(
                f"--{name} {number}: give at least {fewest} pictures" + (" (0 is all)" if not fewest else "")
            )
    wanted = Wanted(
        split=split, num=num, num_curve=num_curve, num_training=num_training, seed=seed,
        levels=() if levels == "none" else _numbers("levels", levels, 0, 1e6),
        steps=() if steps == "none" else tuple(map(int, _numbers("steps", steps, 1, 1000, whole=True))),
        guidance=() if guidance == "none" else _numbers("guidance", guidance, 0, 100),
    )  # fmt: skip
    for path in (out, json, csv):
        if path and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}; make it, or name another file")
    torch.set_flush_denormal(True)
    known = load_ruler(ruler) if ruler else None
    place = choose_device(device)
    networks = Networks(
        Files(
            inception=inception, lpips=tuple(lpips or ()), encoder=encoder, accepted=tuple(sha256 or ()), device=place
        )
    )  # fmt: skip
    model = Cascade.load(cascade, device=place)
    evidence = {name: each.evidence for name, each in read_manifest(cascade).stages.items() if each.evidence}
    found = make_report(model, data, wanted, _say, ruler=known, evidence=evidence, networks=networks)
    if csv:
        replace_text(csv, as_csv(found.each))
    if json:
        replace_text(json, dumps(found.as_json(), indent=1) + "\n")
    replace_text(out, page(found))
    say(f"{out}: {len(found.keys):,} pictures of {' + '.join(found.names)}")


def _say(message: str) -> None:
    say(message, sys.stderr)


def _numbers(name: str, text: str, low: float, high: float, *, whole: bool = False) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(low <= value <= high and (not whole or value.is_integer()) for value in values):
        kind = "whole numbers" if whole else "numbers"
        raise ValueError(
            f"--{name} {text}: {kind} from {low:g} to {high:g} with commas between them are needed, or none"
        )
    return values
