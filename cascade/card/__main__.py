"""Command: write the model card of a cascade, its README.md, or check that it is what the command writes.

python -m cascade.card runs/mine --data shards/mine --report report.json
python -m cascade.card runs/mine --check
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from data.cli import run
from data.line import say


def main(
    cascade: Annotated[Path, typer.Argument(help="a folder of bundles: the --out of train.py")],
    data: Annotated[
        list[str] | None, typer.Option(help="shards that it was trained or judged on, to count; may be repeated")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="folder with the runs of its stages, for hours and machines; default: CASCADE")
    ] = None,
    report: Annotated[
        list[Path] | None, typer.Option(help="JSON of cascade.judge report, for scores; may be repeated")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the file to write  [default: CASCADE/README.md]")] = None,
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit code 1 if the card is stale")] = False,
) -> None:
    """Write the model card of a cascade from what its files know; what was gathered is kept in CASCADE/card.json."""
    from .writing import check_card, left_out, write_card

    if check and (data or runs or report):
        raise ValueError("--check compares with what is kept in card.json; leave --data, --runs and --report out")
    if out and not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}; make it, or name another file")
    if check:
        say(f"{check_card(cascade, out)}: as it would be written")
        return
    contents = [(str(path), _read(path)) for path in report or ()]
    gone = list(left_out(cascade))
    path = write_card(cascade, data=data or (), runs=runs, reports=contents, out=out)
    for line in gone:
        say(f"left out: {line}")
    say(path)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"--report {path}: not readable as JSON ({error}); give the --json of cascade.judge report"
        ) from None


if __name__ == "__main__":
    run(main)
