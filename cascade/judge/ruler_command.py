"""The commands `ruler`, which trains rulers of things and styles from labelled pictures, and `concepts`, which judges by one."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.files import make_folder
from data.line import say

if TYPE_CHECKING:
    from torch import Tensor

    from cascade.judge.concepts import Asked, Verdicts
    from cascade.judge.labelled import Row
    from cascade.judge.ruler import Embedding, ThingRuler


def ruler_main(
    data: Annotated[
        Path, typer.Argument(help="pictures with a metadata.jsonl, or packed shards, with styles and things")
    ],
    out: Annotated[Path, typer.Option(help="folder for the two forms, A.safetensors and B.safetensors")],
    size: Annotated[int, typer.Option(help="px, at which pictures are judged")] = 64,
    background: Annotated[str, typer.Option(help="under transparency: white or grey")] = "white",
    dimensions: Annotated[int, typer.Option(help="numbers of a picture")] = 64,
    style_column: Annotated[str, typer.Option(help="else the class")] = "style",
    thing_column: Annotated[str, typer.Option(help="what two drawings of one thing have in common")] = "thing",
    group_column: Annotated[str, typer.Option(help="by which scores are listed")] = "group",
) -> None:
    """Train both forms of a ruler: A without the pictures whose split is not train, to choose by; B with all, to report by."""
    from cascade.judge.labelled import Columns, load_labelled, with_said
    from cascade.judge.ruler import FORMS, ThingRuler
    from cascade.judge.ruler_file import save_ruler
    from cascade.judge.side import BACKGROUNDS

    if not 8 <= size <= 1024:
        raise ValueError(f"--size {size} is out of range; give 8 to 1024")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder")
    if background not in BACKGROUNDS:
        raise ValueError(f"--background {background}: allowed are {' and '.join(BACKGROUNDS)}")
    color, columns = BACKGROUNDS[background], Columns(style=style_column, thing=thing_column, group=group_column)
    labelled = load_labelled(data, size=size, background=color, columns=columns, note=_note)
    labelled = with_said(labelled, ("style", "thing"), columns, _note)
    rulers = [ThingRuler.train(labelled, form=form, background=color, dimensions=dimensions) for form in FORMS]
    make_folder(out)
    for ruler in rulers:
        save_ruler(out / f"{ruler.form}.safetensors", ruler)
        say(f"{out / ruler.form}.safetensors (sha256 {ruler.sha256[:12]})")
        say("\n".join(_told(ruler)))


def concepts_main(
    ruler: Annotated[Path, typer.Argument(help="A.safetensors to choose by, B.safetensors to report by")],
    pictures: Annotated[
        Path,
        typer.Argument(help="pictures with captions and styles (metadata.jsonl, shards, sample.py's), or a cascade"),
    ],
    half: Annotated[str, typer.Option(help="of the hidden pairs: dev, to choose, or test, to report")] = "",
    kind: Annotated[str, typer.Option(help="only pairs hidden as this, the value of their split")] = "",
    num: Annotated[int, typer.Option(help="of a cascade: images of each hidden caption and style")] = 1,
    limit: Annotated[int, typer.Option(help="of a cascade: most captions, 0 for all")] = 0,
    prompt: Annotated[
        str, typer.Option(help="of a cascade: {text} and {style} stand in it", show_default="{text}, and {style}")
    ] = "",
    seed: Annotated[int, typer.Option(help="of sampling, shuffling and intervals")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    json: Annotated[Path | None, typer.Option(help="write all numbers to this file, too")] = None,
    csv: Annotated[Path | None, typer.Option(help="write a line a picture to this file")] = None,
) -> None:
    """Judge whether pictures show the thing and the style that were asked for, beside ceiling, copies and shuffled captions."""
    from json import dumps

    from cascade.judge.concepts import HEADER, by_fact, judged, line, of_the_ceiling, references, style_ceiling
    from cascade.judge.ruler_file import load_ruler
    from data.files import replace_text

    for path in (json, csv):
        if path and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}; make it, or name another file")
    known = load_ruler(ruler)
    if (pictures / "cascade.json").is_file():
        embedded, asked, rows = _of_cascade(known, pictures, half, kind, num, limit, prompt, seed, device)
    else:
        embedded, asked, rows = _of_folder(known, pictures, half, kind)
    found = judged(known, embedded, asked)
    lines = [line("pictures", found, seed)]
    say(f"pictures   {pictures}: {len(asked):,}")
    say(
        f"ruler      {known.identity.name} (sha256 {known.sha256[:12]}), {known.size} px on {known.background}, seed {seed}"
    )
    say(f"{HEADER}\n{lines[0]}")
    for each in references(known, asked, embedded, seed=seed):
        lines.append(each)
        say(each)
    for what, value, part in by_fact(known, found):
        lines.append(line(f"{what} {value}", part, seed))
        say(lines[-1])
    ceiling = style_ceiling(known, asked)
    if words := of_the_ceiling(lines[0].style.share, ceiling):
        say(f"styles right: {words}")
    if json:
        said = {
            "pictures": str(pictures), "ruler": known.identity.name, "ruler_sha256": known.sha256, "size": known.size,
            "background": list(known.background), "half": half or None, "kind": kind or None, "seed": seed,
            "style_ceiling": ceiling.as_json(), "lines": [each.as_json() for each in lines],
        }  # fmt: skip
        replace_text(json, dumps(said, indent=1) + "\n")
    if csv:
        replace_text(csv, _csv(known, rows, found))


def _of_folder(ruler: "ThingRuler", folder: Path, half: str, kind: str) -> tuple["Embedding", "Asked", list["Row"]]:
    import torch

    from cascade.judge.background import check_background
    from cascade.judge.concepts import ask, hidden
    from cascade.judge.labelled import load_labelled

    labelled = load_labelled(folder, size=ruler.size, background=ruler.background, note=_note)
    check_background(labelled.pictures, ruler.background, str(folder))
    asked, kept, misses = ask(ruler, labelled.rows, str(folder))
    for miss in misses[:10]:
        _note(f"{miss}; it is left out")
    if len(misses) > 10:
        _note(f"{len(misses) - 10:,} more are left out")
    if half or kind:
        wanted = torch.isin(asked.true, hidden(ruler, half, kind).true)
        if not wanted.any():
            raise ValueError(f"{folder}: no picture is of a pair hidden as {' and '.join(filter(None, (half, kind)))}")
        kept[kept.clone()] = wanted
        asked = asked.where(wanted)
    rows = [row for row, keep in zip(labelled.rows, kept.tolist(), strict=True) if keep]
    return ruler.embed(labelled.pictures[kept]), asked, rows


def _of_cascade(
    ruler: "ThingRuler", folder: Path, half: str, kind: str, num: int, limit: int, prompt: str, seed: int, device: str
) -> tuple["Embedding", "Asked", list["Row"]]:
    import torch

    from cascade.engine.devices import choose_device
    from cascade.judge.asking import repeated, request_of, sampled
    from cascade.judge.background import check_background
    from cascade.judge.concepts import hidden
    from cascade.judge.labelled import Row
    from cascade.pipeline import Cascade
    from data.cli import progress

    if num < 1 or limit < 0:
        raise ValueError(f"--num {num} --limit {limit}: at least one image of each caption, and 0 or more captions")
    asked = hidden(ruler, half, kind)
    if not len(asked):
        raise ValueError("the ruler has no hidden pair to ask for: its data have no split but train")
    if limit:  # spread over styles and things, and the same whenever it is asked for
        chosen = torch.randperm(len(asked), generator=torch.Generator().manual_seed(0))[:limit].sort().values
        asked = asked.where(torch.isin(torch.arange(len(asked)), chosen))
    model = Cascade.load(folder, device=choose_device(device))
    request = request_of(model, ruler, asked, num=num, seed=seed, prompt=prompt)
    model.check(request)
    parts: list[Tensor] = []
    count = -(-request.total // request.batch)
    for part in progress(sampled(model, request, ruler), count, "sampling", "batches"):
        parts.append(part.cpu())
    made, asked = torch.cat(parts), repeated(asked, num)
    check_background(made, ruler.background, str(folder))
    known = [ruler.known[row] for row in asked.true.tolist()]
    rows = [Row(name=f"{k:06d}", text=row.text, style=row.style, thing=row.thing) for k, row in enumerate(known)]
    return ruler.embed(made), asked, rows


def _told(ruler: "ThingRuler") -> Iterator[str]:
    """What a ruler is, and how far it can be trusted: hidden true pictures, judged by itself."""
    from cascade.judge.concepts import HEADER, hidden, judged, line, of_the_ceiling, references, style_ceiling, taken

    learned = int(ruler.learned.sum())
    yield (
        f"form {ruler.form}: {learned:,} of {len(ruler.known):,} pictures, {len(ruler.things):,} things in "
        f"{len(ruler.styles)} styles, {ruler.embedded.features.shape[1]} dimensions, {ruler.size} px on {ruler.background}"
    )
    asked = hidden(ruler)
    if not len(asked):
        yield "no picture is hidden (split is train everywhere), so nothing says how far this ruler can be trusted"
        return
    yield HEADER
    for kind in sorted({ruler.known[row].split for row in asked.true.tolist()}):
        part = hidden(ruler, kind=kind)
        yield str(line(f"true pictures, {kind}", judged(ruler, taken(ruler.embedded, part.true), part)))
    yield from map(str, references(ruler, asked))
    ceiling = style_ceiling(ruler, asked)
    if of_the_ceiling(1.0, ceiling):
        yield f"right about {ceiling.share:.1%} of the styles of hidden true pictures: scores of style are told of that ceiling"


def _csv(ruler: "ThingRuler", rows: list["Row"], found: "Verdicts") -> str:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["picture", "text", "thing", "style", "nearer_things", "style_found", "concept", "style_right"])
    columns = (found.nearer, found.asked.thing, found.asked.style, found.style, found.concept, found.style_right)
    for row, *values in zip(rows, *(column.tolist() for column in columns), strict=True):
        nearer, thing, style, style_found, concept, style_right = values
        names = (ruler.things[thing], ruler.styles[style], nearer, ruler.styles[style_found])
        writer.writerow([row.name, row.text, *names, int(concept), int(style_right)])
    return out.getvalue()


def _note(message: str) -> None:
    say(f"note: {message}", sys.stderr)
