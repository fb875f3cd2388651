"""Scores of pictures and of cascades.

python -m cascade.judge score REAL GENERATED       two folders of pictures, data sets or .npz files of statistics
python -m cascade.judge ruler DATA --out RULERS    trains rulers of things and styles from labelled pictures
python -m cascade.judge concepts RULER PICTURES    do pictures show the things and styles that were asked for?
python -m cascade.judge sweep CASCADE --data ...   chooses how the stages sample, and writes it into the manifest
python -m cascade.judge vote A B                   people vote on two folders, cascades or stores of servers, on a page
python -m cascade.judge CASCADE --data SHARDS      a cascade: its pictures, and each stage by strength of augmentation
python -m cascade.judge report CASCADE --data SHARDS --out report.html     all of it and more as one page
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cascade.judge.report_command import report_main
from cascade.judge.ruler_command import concepts_main, ruler_main
from cascade.judge.sweep_command import sweep_main
from cascade.judge.vote.command import vote_main
from data.cli import run
from data.line import say


def score_main(
    real: Annotated[str, typer.Argument(help="the true pictures: a folder, a data set or a .npz of statistics")],
    generated: Annotated[str, typer.Argument(help="the pictures to judge: likewise")],
    size: Annotated[int, typer.Option(help="shrink square pictures to this side, px; 0: their own")] = 0,
    split: Annotated[str, typer.Option(help="of data sets")] = "val",
    background: Annotated[str, typer.Option(help="for transparent pictures of folders: white or grey")] = "white",
    seed: Annotated[int, typer.Option(help="of halves, slices and draws")] = 0,
    ruler: Annotated[Path | None, typer.Option(help="a file of the command ruler, in place of look")] = None,
    inception: Annotated[
        Path | None, typer.Option(help="pt_inception-2015-12-05-6726825d.pth: FID and IS, too")
    ] = None,
    lpips: Annotated[
        list[Path] | None,
        typer.Option(help="backbone and heads of LPIPS, the option twice: for pictures that both sides have by name"),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="folder of an image-text encoder (CLIP, SigLIP): do pictures show their captions?"),
    ] = None,
    world: Annotated[
        bool, typer.Option("--world", help="captions of GENERATED are of data.world: how many are drawn right?")
    ] = False,
    sha256: Annotated[
        list[str] | None, typer.Option(help="of a weights' file to trust, besides the published ones; may be repeated")
    ] = None,
    device: Annotated[str, typer.Option(help="of these networks: auto, cpu, cuda or cuda:N")] = "auto",
    json: Annotated[Path | None, typer.Option(help="write all numbers to this file, too")] = None,
    csv: Annotated[
        Path | None, typer.Option(help="write the numbers of each generated picture to this file, too")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="write the statistics of GENERATED to this .npz, by Inception if it is given")
    ] = None,
) -> None:
    """Compare two sets of pictures. Numbers mean something beside the floor (halves of the real) and at the same N only."""
    from dataclasses import replace
    from json import dumps

    from cascade.engine.devices import choose_device
    from cascade.judge.drawn import drawn_right
    from cascade.judge.each import as_csv
    from cascade.judge.local import Files, Networks
    from cascade.judge.measuring import BY_LOOK, by_inception, by_things
    from cascade.judge.ruler_file import load_ruler
    from cascade.judge.score import score, statistics
    from cascade.judge.side import load_side
    from cascade.judge.singles import singles
    from cascade.judge.stored import save_moments
    from data.files import replace_text

    _check_folders(json, csv, save)
    for option, path in (("--csv", csv), ("--save", save)):
        if path and generated.endswith(".npz"):
            raise ValueError(f"{option} {path}: GENERATED is a statistics file already; leave it out")
    by = by_things(load_ruler(ruler)) if ruler else BY_LOOK
    networks = Networks(
        Files(
            inception=inception, lpips=tuple(lpips or ()), encoder=encoder, accepted=tuple(sha256 or ()),
            device=choose_device(device),
        )
    )  # fmt: skip
    real_side, generated_side = (
        load_side(
            each, size=size, split=split, background=background, captions=bool(networks.encoder) or world, note=_note
        )
        for each in (real, generated)
    )
    stored = by_inception(networks.inception) if networks.inception else by
    has_statistics = real_side.moments is not None or generated_side.moments is not None
    drawn = drawn_right(generated_side) if world else {}
    seen = networks.judge(real_side, generated_side, seed=seed)
    seen = replace(seen, scores=drawn | seen.scores)
    found = score(real_side, generated_side, seed=seed, by=stored if has_statistics else by, found=seen)
    say("\n".join(found.lines()))
    if json:
        replace_text(json, dumps(found.as_json(), indent=1) + "\n")
    if csv:
        replace_text(csv, as_csv(singles(real_side, generated_side, seen)))
    if save:
        save_moments(save, statistics(generated_side, stored))


def judge_main(
    cascade: Annotated[Path, typer.Argument(help="a folder of bundles: the --out of train.py")],
    data: Annotated[str, typer.Option(help="shards with the conditions of the cascade")] = "",
    split: Annotated[str, typer.Option(help="of the data: the pictures whose conditions are sampled")] = "val",
    num: Annotated[int, typer.Option(help="most pictures; 0: all of the split")] = 64,
    levels: Annotated[
        str, typer.Option(help="aug_sigma of each super-resolution stage, to try")
    ] = "0,0.05,0.1,0.2,0.4",
    seed: Annotated[int, typer.Option(help="of sampling and of the scores")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    json: Annotated[Path | None, typer.Option(help="write all numbers to this file, too")] = None,
) -> None:
    """Judge each super-resolution stage on true low-res pictures and on those of the stages below, at several strengths."""
    from json import dumps

    import torch

    from cascade.engine.devices import choose_device
    from cascade.judge.mismatch import mismatch
    from cascade.pipeline import Cascade
    from data.files import replace_text

    if not data:
        raise ValueError("--data SHARDS is needed: whose pictures and conditions the cascade is judged on")
    if num < 0:
        raise ValueError(f"--num {num}: give a number of pictures, or 0 for all of the split")
    _check_folders(json)
    torch.set_flush_denormal(True)  # a picture far from noise gives denormals, which are 30 times slower on a CPU
    model = Cascade.load(cascade, device=choose_device(device))
    rows = []
    for row in mismatch(model, data, split=split, num=num, levels=_levels(levels), seed=seed):
        rows.append(row)
        say(row.line(header=len(rows) == 1))
    if json:
        replace_text(json, dumps([row.as_json() for row in rows], indent=1) + "\n")


def _levels(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--levels {text}: numbers with commas between them are needed, such as 0,0.1,0.4") from None
    if not all(0 <= value < 1e6 for value in values):
        raise ValueError(f"--levels {text}: levels are standard deviations of noise, 0 or more")
    return values


def _check_folders(*paths: Path | None) -> None:
    """Raise ValueError, before any work, for a file to write whose folder is not there."""
    for path in paths:
        if path and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}; make it, or name another file")


def _note(message: str) -> None:
    say(f"note: {message}", sys.stderr)


COMMANDS: dict[str, Callable[..., object]] = {
    "score": score_main,
    "ruler": ruler_main,
    "concepts": concepts_main,
    "report": report_main,
    "sweep": sweep_main,
    "vote": vote_main,
}
"""What stands after `cascade.judge`, if it is no cascade."""

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        run(COMMANDS[sys.argv.pop(1)])
    run(judge_main)
