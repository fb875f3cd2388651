"""KID of each way of guidance: none, classifier-free, autoguidance, both, and each at the middle levels alone.

    python -m cascade.guide runs/emoji base_16 --bundle runs/small/base_16/bundle      a guide, if there is none, or:
    python -m cascade.guide runs/emoji base_16 --nimg 20000                            a snapshot of the stage's own run
    python tests/bench/guidance.py runs/emoji base_16 --data shards/emoji_64 --out out/guidance

One picture for each of a split's conditions, by the manifest's other settings and of the same noise, so the jackknife of a
*difference* is far below that of a score. Guidance trades variety for fit: beside KID stand the share of other true pictures that
are farther than a picture's own (match), precision and recall, all by the judge's features of looks; by a ruler of things and
styles the share of right ones; and of scenes of data/world, whose captions --captions names, the share drawn right, read without
doubt. The pictures go into --out, the numbers into its .json, the first EIGHT conditions into its .png; what is there is not
painted again.
"""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from torch import Tensor

from data.cli import run
from data.line import say

if TYPE_CHECKING:
    from cascade.judge.concepts import Asked
    from cascade.judge.ruler import ThingRuler
    from cascade.link import Link
    from tests.bench.painting import Conditions

NARROW, WIDE = (0.3, 5.0), (0.3, 13.0)
"""Middle levels: at high noise guidance makes pictures alike, at low noise it does little (Kynkaanniemi et al. 2024)."""

EIGHT, SIDE = 8, 132  # pictures of a column of the sheet; px


def guided(cfg: float = 1.0, auto: float = 1.0, interval: tuple[float, float] | None = None) -> dict[str, Any]:
    """Settings of one way; an interval is that of both."""
    both = {} if interval is None else {"guidance_interval": interval, "autoguidance_interval": interval}
    return {"guidance_scale": cfg, "autoguidance_scale": auto, **both}


FIRST = "none"  # the others are compared with it
WAYS: dict[str, dict[str, Any]] = {
    FIRST: guided(),
    "cfg 3": guided(3),
    "auto 2": guided(auto=2),
    "cfg 3 narrow": guided(3, interval=NARROW),
    "cfg 1.5": guided(1.5),
    "auto 2 narrow": guided(auto=2, interval=NARROW),
    "cfg 1.5 auto 1.5": guided(1.5, 1.5),
    "cfg 2": guided(2),
    "auto 3": guided(auto=3),
    "auto 1.5": guided(auto=1.5),
    "cfg 3 wide": guided(3, interval=WIDE),
    "cfg 2 auto 2 wide": guided(2, 2, WIDE),
    "cfg 4": guided(4),
    "cfg 2 narrow": guided(2, interval=NARROW),
    "cfg 2 auto 1.5": guided(2, 1.5),
    "cfg 2 auto 2": guided(2, 2),
    "cfg 2 auto 2 narrow": guided(2, 2, NARROW),
}


def calls(link: "Link", changes: dict[str, Any]) -> Counter[str]:
    """Network calls a picture with these settings, by host: a guided call counts for both of its halves."""
    from cascade.link import with_settings
    from stages.guidance import rows_by_call

    settings = with_settings([link], {link.name: changes})[0].settings
    total = Counter[str]()
    for rows in rows_by_call(settings, link.guided_parts, link.hosts):
        total.update(rows)
    return total


def kept_or_painted(path: Path, conditions: "Conditions", said: dict[str, Any], changes: dict[str, Any]) -> Tensor:
    """The pictures in the file, else painted ones, which are stored there with what made them. Raises ValueError for a file that
    was made otherwise."""
    from safetensors import safe_open
    from safetensors.torch import save

    from cascade.link import with_settings
    from data.files import replace_bytes

    link = with_settings([conditions.link], {conditions.link.name: changes})[0]
    made = json.dumps(said | {"settings": link.settings.model_dump(mode="json")}, sort_keys=True)
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if file.metadata()["made"] != made:
                raise ValueError(
                    f"{path} was made by other weights, data or settings; remove it, or name another --out"
                )
            return file.get_tensor("pictures")
    pictures = conditions.painted(**changes)
    replace_bytes(path, save({"pictures": pictures}, {"made": made}))
    return pictures


def asked_of(ruler: "ThingRuler", conditions: "Conditions") -> tuple["Asked", Tensor]:
    """What the pictures should show, of those that the ruler knows by key; and which these are, (n,) bool. Raises ValueError."""
    from cascade.judge.concepts import Asked

    rows = {Path(row.name).name: number for number, row in enumerate(ruler.known)}
    found = torch.tensor([rows.get(key, -1) for batch in conditions.batches for key in batch.keys])
    kept = found >= 0
    if not kept.any():
        raise ValueError("--ruler: it knows none of these pictures; train one on these shards (cascade.judge ruler)")
    true = found[kept]
    return Asked(thing=ruler.thing[true], style=ruler.style[true], true=true), kept


def right(ruler: "ThingRuler", pictures: Tensor, asked: "Asked", kept: Tensor) -> dict[str, float]:
    """Shares of pictures uint8 (n, c, h, w) with the right thing, and in the right style."""
    from cascade.judge.concepts import judged
    from cascade.judge.painted import at_size
    from data.alpha import on_background

    small = at_size(on_background(pictures[kept]), (ruler.size,) * 2)
    found = judged(ruler, ruler.embed(small), asked)
    return {"thing": found.concept.double().mean().item(), "style": found.style_right.double().mean().item()}


def captions_of(file: Path, conditions: "Conditions") -> list[str]:
    """The pictures' captions, by their names in a metadata.jsonl that data/world wrote. Raises ValueError."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    known = {Path(row["file_name"]).stem: row["text"] for row in rows}
    keys = [key for batch in conditions.batches for key in batch.keys]
    if lacking := [key for key in keys if key not in known]:
        raise ValueError(
            f"--captions {file}: no picture {lacking[0]}; name the metadata.jsonl of which --data was packed"
        )
    return [known[key] for key in keys]


def drawn_right(pictures: Tensor, captions: list[str]) -> Tensor:
    """Which pictures uint8 (n, c, h, w) show their captions and nothing else: (n,) float64, 1 or 0."""
    from data.alpha import on_background
    from data.world.score import shows

    seen = on_background(pictures).permute(0, 2, 3, 1).numpy()
    return torch.tensor([shows(*each) for each in zip(seen, captions, strict=True)], dtype=torch.float64)


def save_sheet(out: Path, columns: dict[str, Tensor]) -> None:
    """The first pictures of each column below each other, on white."""
    from cascade.output.sheet import Captioned, table
    from data.alpha import on_background, to_image

    shown = {name: on_background(pictures[:EIGHT]) for name, pictures in columns.items()}
    cells = [Captioned(picture=to_image(shown[name][row]), caption=name) for row in range(EIGHT) for name in shown]
    table(cells, len(shown), SIDE).save(out)


def main(
    cascade: Annotated[Path, typer.Argument(help="the --out of train.py, whose stage has a guide")],
    stage: Annotated[str, typer.Argument(help="the stage that samples")],
    data: Annotated[Path, typer.Option(help="shards of true pictures, at least 320")],
    split: Annotated[str, typer.Option(help="val, or train where that is too small")] = "val",
    out: Annotated[Path, typer.Option(help="folder of the pictures; OUT.json and OUT.png beside it")] = Path(
        "guidance"
    ),
    limit: Annotated[int, typer.Option(help="pictures at the most")] = 512,
    way: Annotated[list[str] | None, typer.Option(help="only these; may be repeated")] = None,
    ruler: Annotated[
        Path | None, typer.Option(help="form B of a ruler of these shards, at most the stage's size")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(help="metadata.jsonl of scenes of data/world, which --data was packed of")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
) -> None:
    """KID of each way of guidance."""
    from cascade.judge.estimate import Estimate
    from cascade.judge.kernel import kernel_estimate
    from cascade.judge.manifold import manifold
    from cascade.judge.matching import match
    from cascade.judge.ruler_file import load_ruler
    from data.files import make_folder, replace_text
    from stages.guidance import GUIDE
    from tests.bench.painting import Conditions, features

    for name in way or []:
        if name not in WAYS:
            raise ValueError(f"--way {name!r}: there are {', '.join(WAYS)}")
    conditions = Conditions.load(cascade, stage, data, split=split, limit=limit, device=device, precision=precision)
    link, real = conditions.link, features(conditions.true)
    if GUIDE not in link.hosts:
        raise ValueError(f"{cascade}: stage {stage} has no guide (python -m cascade.guide sets one)")
    judge = None if ruler is None else load_ruler(ruler)
    asked = None if judge is None else asked_of(judge, conditions)
    texts = None if captions is None else captions_of(captions, conditions)
    said = {"own": link.host.sha256, "beside": link.beside, "data": str(data), "split": split, "num": len(conditions)}
    said["precision"] = precision
    ceiling = {"true": right(judge, conditions.true, *asked)} if judge and asked else {}
    if texts:
        ceiling["drawn"] = Estimate.of_mean(drawn_right(conditions.true, texts)).value
    make_folder(out)
    columns, first, first_drawn, found = {"true": conditions.true}, None, None, {}
    for name, changes in WAYS.items():
        path = out / f"{name.replace(' ', '_')}.safetensors"
        if way and name not in (FIRST, *way) and not path.exists():
            continue
        columns[name] = pictures = kept_or_painted(path, conditions, said, changes)
        seen, total = features(pictures), calls(link, changes)
        kid, spread = kernel_estimate(real, seen), manifold(real, seen)
        first = first or kid
        gain = kid - first
        found[name] = {
            "own": total["own"], "guide": total[GUIDE], "kid": kid.value, "error": kid.error,
            "over_first": gain.value, "over_first_error": gain.error, "match": match(real, seen).value,
            "precision": spread.precision, "recall": spread.recall,
        }  # fmt: skip
        if judge and asked:
            found[name] |= right(judge, pictures, *asked)
        if texts:
            drawn = Estimate.of_mean(drawn_right(pictures, texts))
            first_drawn = first_drawn or drawn
            more = drawn - first_drawn
            found[name] |= {"drawn": drawn.value, "drawn_over_first": more.value, "drawn_over_first_error": more.error}
        replace_text(out.with_suffix(".json"), json.dumps(said | ceiling | {"ways": found}, indent=1) + "\n")
        say(f"{name:18}" + "".join(f"  {key} {value:.4g}" for key, value in found[name].items()))
    save_sheet(out.with_suffix(".png"), columns)


if __name__ == "__main__":
    run(main)
