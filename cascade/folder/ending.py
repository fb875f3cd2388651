"""After training: the best weights into the bundles, a picture of samples, scores in a few lines, whether pictures are repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cascade.judge.neighbours import neighbours
from cascade.judge.page import page
from cascade.judge.painted import at_size
from cascade.judge.report import FEWEST, Report, Wanted, make_report
from data.alpha import on_background
from data.files import replace_text
from data.index import load
from data.read.shards import read_split
from stages.export import main as export
from stages.training.checkpoints import nimg_of, read_manifest
from stages.training.rundir import RunDir

from ..cli import show
from ..events import StageFinished
from ..output.destinations import output_for
from ..pipeline import Cascade
from ..request import Request

BETTER = 0.98  # of the last held-out loss: an earlier checkpoint that is below is taken
SHOWN = 32  # pictures
FEW = 200  # pictures, below which they are expected to be repeated
JUDGED = 64  # held-out pictures
REPEATED = 0.8  # mean share of training pictures that are farther from each other than a sample from its nearest; 0.5: new draws
SMALL = 32  # px at which neighbours are looked for


def take_best(run: Path, name: str, say: Callable[[str], None]) -> None:
    """Put the checkpoint with the least held-out loss into the bundle, if that is well below the last one's."""
    folder = RunDir(run)
    best, last = folder.best(), folder.latest()
    if best is None or last is None or best == last:
        return
    least, final = read_manifest(best)["val_loss"], read_manifest(last).get("val_loss")
    if final is None or least >= BETTER * final:
        return
    export(run, folder.bundle, nimg=nimg_of(best))
    say(
        f"{name}: the held-out loss was least at {nimg_of(best):,} images ({least:.3f}, {final:.3f} at the end): those weights are "
        "used; more training would repeat the pictures rather than learn from them"
    )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What was painted: uint8 (n, c, h, w), and where."""

    pictures: Tensor
    path: Path


def paint_samples(out: Path, model: Cascade, captions: list[str], num: int = SHOWN) -> Shown:
    """A grid of about `num` samples in OUT/samples.png, a row each of some captions or classes; unconditional without."""
    labels = model.links[0].sidecar.provenance.classes or ()
    has_text = model.links[0].contract.text_encoder is not None
    prompts = tuple(captions[:8]) if has_text else ()
    classes = () if has_text and not labels else tuple(range(min(8, len(labels))))
    if prompts and classes:
        classes = tuple(k % len(labels) for k in range(len(prompts)))
    rows = max(len(prompts), len(classes), 1)
    request = Request(prompts=prompts, labels=classes, num=max(1, num // rows), batch=16)
    plan, target = model.resolve(request), output_for(str(out / "samples.png"), stages=False, overwrite=True)
    parts: list[Tensor] = []

    def kept():
        for event in show(model.sample(plan), len(plan.index)):
            if isinstance(event, StageFinished) and event.stage == model.names[-1]:
                parts.append(event.images)
            yield event

    list(target.write(kept(), plan))
    return Shown(pictures=torch.cat(parts) if parts else torch.empty(0), path=out / "samples.png")


def judge(out: Path, model: Cascade, data: Path, say: Callable[[str], None]) -> Report | None:
    """A short report on held-out pictures in OUT/report.html; None where there are too few."""
    if load(data).num_images.get("val", 0) < FEWEST:
        return None
    report = make_report(model, str(data), Wanted(num=JUDGED, num_training=2_000), say)
    replace_text(out / "report.html", page(report))
    return report


def repeats(made: Tensor, data: Path, side: int) -> tuple[float, int]:
    """The mean share of `neighbours` for samples, and the number of training pictures that they are compared with."""
    size = (min(side, SMALL), min(side, SMALL))
    training = torch.cat(
        [at_size(batch.image, size) for batch in read_split(str(data), "train", batch=64, resolution=side, limit=2_000)]
    )
    flat = [on_background(each).flatten(1).double() / 127.5 - 1 for each in (training, at_size(made, size))]
    return neighbours(*flat).share_nearer, len(training)


def told(report: Report | None, share: float, num: int) -> list[str]:
    """Scores and what they mean, a line each."""
    lines = []
    for stage in report.stages if report else ():
        found = next(iter(stage.briefs.values()))
        kid = f", KID {found.kid[0]:.4f} +- {found.kid[1]:.4f}" if found.kid else ""
        lines.append(
            f"{stage.name}: sharpness {found.sharpness[0]:.2f} of the true pictures', grain {found.grain[0]:.3f}{kid}"
        )
    nearer = f"{100 * share:.0f} % of {num:,} pictures are farther from their nearest than a sample from its own (new ones: 50 %)"
    if share > REPEATED:
        lines.append(f"it repeats the pictures that it was trained on: {nearer}")
    elif num < FEW:
        lines.append(f"{num:,} pictures are few: expect it to repeat them as it is trained on ({nearer})")
    else:
        lines.append(f"it does not repeat its pictures: {nearer}")
    return lines
