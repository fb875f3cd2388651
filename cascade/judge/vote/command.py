"""`python -m cascade.judge vote A B`: a page on which people vote, and the result."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from cascade.judge.vote.ballots import Ask, draw, make_ballots
from cascade.judge.vote.intervals import claims
from cascade.judge.vote.sides import Side, is_cascade, load_side
from cascade.judge.vote.votes import VotesFile, check_voter, head_of
from data.files import held, make_folder
from data.line import say

NEEDED = ("starlette", "uvicorn")


def vote_main(
    sides: Annotated[
        list[str], typer.Argument(help="folders of pictures, cascades, servers' STORE or STORE:JOB; A B ...")
    ],
    ask: Annotated[
        Ask, typer.Option(help="which is better, real or generated (A is real), does it show the caption")
    ] = Ask.BETTER,
    votes: Annotated[Path, typer.Option(help="the file of votes; the same command goes on where it was")] = Path(
        "votes.jsonl"
    ),
    result: Annotated[
        bool, typer.Option("--result", help="print the result of the votes so far, without a page")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="write all numbers of the result to this file, too")] = None,
    voter: Annotated[str, typer.Option(help="who votes; without it the page asks")] = "",
    num: Annotated[int, typer.Option(help="most pairs (pictures of a side, if real or generated); 0: all")] = 0,
    claim: Annotated[float, typer.Option(help="a rate in %, of which is told how many votes show it")] = 0.0,
    pair: Annotated[str, typer.Option(help="how pictures pair: name, caption or auto")] = "auto",
    seed: Annotated[int, typer.Option(help="of order, sides and samples")] = 0,
    prompts_file: Annotated[
        Path | None, typer.Option(help="of cascades: a prompt a line; else captions of another side")
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="of cascades: where their pictures go", show_default="VOTES.samples")
    ] = None,
    device: Annotated[str, typer.Option(help="of cascades: auto, cpu, cuda or cuda:N")] = "auto",
    port: Annotated[int, typer.Option(help="of the page; 0: any that is free")] = 0,
) -> None:
    """Let people vote on pictures without knowing whose they are."""
    _check_options(ask, sides, votes, json, claim, port)
    if not result:
        _check_needed()
    voter = check_voter(voter) if voter else ""
    folder = samples or votes.with_suffix(".samples")
    loaded = _load(sides, prompts_file, folder, num=num, seed=seed, device=device)
    ballots = make_ballots(ask, loaded, by=pair, num=num, seed=seed)
    head, names = head_of(ask, loaded, seed), [side.name for side in loaded]
    with nullcontext() if result else held(votes.with_name(f"{votes.name}.lock"), f"--votes {votes}"):
        file = VotesFile(votes, head, ballots)
        if not result:
            _announce(ask, len(ballots), len(loaded), claim)
            file.start()
            from cascade.judge.vote.poll import Poll
            from cascade.judge.vote.server import serve

            serve(Poll(ask, loaded, ballots, file, seed), port=port, voter=voter, say=_ready)
        from cascade.judge.vote.result import result as result_of
        from cascade.judge.vote.result import result_lines

        for line in result_lines(ask, names, ballots, file.votes):
            say(line)
        if json:
            from json import dumps

            from data.files import replace_text

            replace_text(json, dumps(result_of(ask, names, ballots, file.votes), indent=1) + "\n")


def _check_options(ask: Ask, sides: Sequence[str], votes: Path, json: Path | None, claim: float, port: int) -> None:
    fewest = 1 if ask is Ask.CAPTION else 2
    if len(sides) < fewest:
        raise ValueError(f"vote {' '.join(sides)}: --ask {ask} needs {fewest} sides or more; name another folder")
    plain = [side.rstrip("/") for side in sides]
    if twice := next((side for side in plain if plain.count(side) > 1), ""):
        raise ValueError(f"vote: {twice} is named twice; a side is compared with another")
    if not 0 <= claim < 100:
        raise ValueError(f"--claim {claim:g}: a rate in % is needed, from 0 to below 100, such as 80")
    if not 0 <= port < 65536:
        raise ValueError(f"--port {port}: 0 to 65535 are allowed")
    for path in (votes, json):
        if path and not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}; make it, or name another file")


def _load(
    sources: Sequence[str], prompts_file: Path | None, folder: Path, *, num: int, seed: int, device: str
) -> list[Side]:
    """All sides; those of cascades are sampled first, by the given prompts or the captions of another side."""
    found = {source: load_side(source, _note) for source in sources if not is_cascade(source)}
    prompts = _lines(prompts_file) if prompts_file else _captions(list(found.values()), num, seed)
    sides = []
    for i, source in enumerate(sources):
        if source in found:
            sides.append(found[source])
            continue
        from cascade.judge.vote.samples import sample_side

        make_folder(folder)
        made = sample_side(source, folder / str(i), prompts=prompts, num=num, seed=seed, device=device)
        side = load_side(str(made), _note)
        sides.append(Side(name=source.rstrip("/"), pictures=side.pictures, broken=side.broken))
    return sides


def _captions(sides: Sequence[Side], num: int, seed: int) -> list[str]:
    captions = sorted({each.caption for side in sides for each in side.pictures if each.caption})
    return sorted(captions, key=lambda text: draw(seed, "prompt", text))[: num or len(captions)]


def _announce(ask: Ask, num_ballots: int, num_sides: int, claim: float) -> None:
    """Say before the first vote what can be shown by so many."""
    is_pairs = ask is Ask.BETTER
    of_each = num_ballots // (num_sides * (num_sides - 1) // 2 if is_pairs else num_sides)
    told = f"{of_each:,} pairs of each two sides" if is_pairs else f"{of_each:,} pictures of each side"
    say(f"{num_ballots:,} ballots, {told}; with 95 % confidence:")
    for line in claims(of_each, (claim / 100,)) if claim else claims(of_each):
        say(f"  {line}")


def _check_needed() -> None:
    """Raise ValueError if packages of the extra are missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the page needs {', '.join(missing)}; uv sync --inexact --extra serve, or pip install -e '.[serve]'"
        )


def _ready(address: str) -> None:
    say(f"vote at {address} (Ctrl-C ends it and prints the result)")


def _lines(path: Path) -> list[str]:
    from cascade.cli import lines_of

    return lines_of(path)


def _note(message: str) -> None:
    say(f"note: {message}", sys.stderr)
