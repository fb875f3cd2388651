"""The whole card as text, written into its file or compared with it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.errors import RunError
from data.files import replace_text

from . import sections
from .chain import Chain, read_chain
from .gather import gathered
from .hand import Hand, read_hand
from .head import head
from .kept import Kept, read_kept, why_not, write_kept

CARD = "README.md"
MARK = "<!-- Written by python -m cascade.card, which writes it anew; by hand: card.md, LICENSE.md. -->"


def card(chain: Chain, kept: Kept, hand: Hand) -> str:
    """The text of README.md."""
    told = {
        "Stages": sections.stages(chain),
        "Training": sections.train(chain, kept),
        "Data": sections.data(chain, kept),
        "Sampling": sections.settings(chain),
        "Scores": sections.scores(kept),
    }
    ends = {
        "What it cannot do": sections.limits(chain, kept),
        "Licences": sections.licence(chain, kept, hand),
    }
    own = {name: text for name, text in hand.sections.items() if name not in told | ends}
    whole = {
        name: "\n\n".join(part for part in (text, hand.sections.get(name, "") if name not in own else "") if part)
        for name, text in (told | own | ends).items()
    }
    parts = [MARK, sections.title(chain, hand), sections.opening(chain, kept, hand)]
    parts += [f"## {name}\n\n{text}" for name, text in whole.items() if text]
    return head(chain, kept, hand) + "\n\n".join(parts) + "\n"


def left_out(folder: Path) -> Iterator[str]:
    """The reports that were kept and are no longer told, each with the reason."""
    chain = read_chain(folder)
    for report in read_kept(folder).reports:
        if why := why_not(report, chain):
            yield f"the report on {report.data}: {why}"


def write_card(
    folder: Path, *, data: Sequence[str] = (), runs: Path | None = None, reports: Sequence[tuple[str, Any]] = (),
    out: Path | None = None,
) -> Path:  # fmt: skip
    """Gather, keep what was gathered in card.json, write the card; its path. Raises ValueError, before anything is written."""
    path = out or folder / CARD
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(
            f"{path} is there and was not written by this command; move what is worth it into {folder / 'card.md'} and remove it, "
            "or choose another --out"
        )
    chain, hand = read_chain(folder), read_hand(folder)
    kept = gathered(chain, read_kept(folder), data=data, runs=runs, reports=reports)
    text = card(chain, kept, hand)
    write_kept(folder, kept)
    replace_text(path, text)
    return path


def check_card(folder: Path, out: Path | None = None) -> Path:
    """The path of a card that is what would be written. Raises RunError, with exit code 1, if it is stale or not there."""
    path = out or folder / CARD
    chain = read_chain(folder)
    kept = gathered(chain, read_kept(folder), data=(), runs=None, reports=())
    now = path.read_text(encoding="utf-8") if path.is_file() else None
    if now != (text := card(chain, kept, read_hand(folder))):
        why = "not there" if now is None else f"stale from line {_differs(now, text)} on"
        raise RunError(f"{path}: {why}; write it anew with: python -m cascade.card {folder}")
    return path


def _differs(now: str, text: str) -> int:
    """The first line, from 1 on, that is not the same."""
    ours, theirs = now.splitlines(), text.splitlines()
    pairs = zip(ours, theirs, strict=False)
    return next((k for k, (a, b) in enumerate(pairs, 1) if a != b), min(len(ours), len(theirs)) + 1)
