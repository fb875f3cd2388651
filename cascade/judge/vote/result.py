"""What the votes say, by voter and together.

Together, a ballot counts once, however many voted on it: its vote is the mean of theirs, since votes on the same pictures are no
independent evidence.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from cascade.judge.vote.ballots import Ask, Ballot
from cascade.judge.vote.bradley_terry import strengths
from cascade.judge.vote.intervals import Share
from cascade.judge.vote.votes import Vote

WORTH = {  # of a choice, for the side that is shown
    Ask.REAL: {"real": 1.0, "unsure": 0.5, "generated": 0.0},
    Ask.CAPTION: {"yes": 1.0, "partly": 0.5, "no": 0.0},
}
MEANS = {Ask.REAL: "called real", Ask.CAPTION: "shows the caption (partly: half)"}

Worths = dict[str, float]  # of ballots, by key; in favour of the ballot's first side


def result_lines(ask: Ask, names: Sequence[str], ballots: Sequence[Ballot], votes: Sequence[Vote]) -> list[str]:
    """The result for a terminal."""
    found = result(ask, names, ballots, votes)
    if not votes:
        return ["no votes yet"]
    lines = [f"{len(votes):,} votes on {found['voted']:,} of {len(ballots):,} ballots"]
    lines += [f"  {each['what']}: {_told(each)}" for each in found["together"]]
    for each in found["strengths"]:
        lines.append(
            f"  strength of {each['side']}: {each['strength']:+.2f} ± {each['half']:.2f} (log-odds, Bradley-Terry)"
        )
    if len(found["voters"]) > 1:
        for voter, shares in found["voters"].items():
            lines += [f"  by {voter}: {each['what']}: {_told(each)}" for each in shares]
    else:
        lines.append(f"  by {next(iter(found['voters']))}")
    agreement = found["agreement"]
    if agreement:
        lines.append(
            f"  agreement of voters: {100 * agreement['same']:.0f} % of {agreement['n']:,} comparisons are the same choice, "
            f"{100 * agreement['chance']:.0f} % by chance"
        )
    if left := found["left"]:
        is_biased = not left["low"] <= 0.5 <= left["high"]
        lines.append(f"  left was chosen in {_told(left)}{': voters prefer a place' if is_biased else ''}")
    return lines


def _told(each: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {num}" for name, num in each["choices"].items()) if "choices" in each else ""
    share = Share(successes=each["successes"], n=each["n"])
    return f"{share}{f' ({parts})' if parts else ''}"


def result(ask: Ask, names: Sequence[str], ballots: Sequence[Ballot], votes: Sequence[Vote]) -> dict[str, Any]:
    """All numbers: `together`, by `voters`, `strengths` of three sides or more, `agreement`, share of `left`."""
    by_key = {each.key: each for each in ballots}
    votes = [each for each in votes if each.ballot in by_key]
    voters = sorted({each.voter for each in votes})
    together = _means(ask, names, by_key, votes)
    return {
        "ask": str(ask), "sides": list(names), "votes": len(votes), "voted": len(together), "ballots": len(ballots),
        "together": _shares(ask, names, by_key, together, votes),
        "voters": {name: _of_voter(ask, names, by_key, [v for v in votes if v.voter == name]) for name in voters},
        "strengths": _strengths(names, by_key, together) if ask is Ask.BETTER and len(names) > 2 else [],
        "agreement": _agreement(votes),
        "left": _left(votes) if ask is Ask.BETTER else None,
    }  # fmt: skip


def _of_voter(
    ask: Ask, names: Sequence[str], ballots: dict[str, Ballot], votes: Sequence[Vote]
) -> list[dict[str, Any]]:
    return _shares(ask, names, ballots, _means(ask, names, ballots, votes), votes)


def _means(ask: Ask, names: Sequence[str], ballots: dict[str, Ballot], votes: Iterable[Vote]) -> Worths:
    """The mean vote of each ballot that has one."""
    given: dict[str, list[float]] = {}
    for vote in votes:
        given.setdefault(vote.ballot, []).append(_worth(ask, names[ballots[vote.ballot].sides[0]], vote))
    return {key: sum(values) / len(values) for key, values in given.items()}


def _worth(ask: Ask, first: str, vote: Vote) -> float:
    if ask is not Ask.BETTER:
        return WORTH[ask][vote.choice]
    return 0.5 if vote.winner is None else float(vote.winner == first)


def _shares(
    ask: Ask, names: Sequence[str], ballots: dict[str, Ballot], means: Worths, votes: Sequence[Vote]
) -> list[dict[str, Any]]:
    found = []
    if ask is Ask.BETTER:
        for i, j in combinations(range(len(names)), 2):
            keys = [key for key in means if ballots[key].sides == (i, j)]
            choices = Counter({"better": 0, "tie": 0, "worse": 0})
            choices.update(_side_of(vote, names[i]) for vote in votes if ballots[vote.ballot].sides == (i, j))
            found.append(_share(f"{names[i]} better than {names[j]}", keys, means, choices))
        return found
    for i, name in enumerate(names):
        keys = [key for key in means if ballots[key].sides == (i,)]
        choices = Counter(dict.fromkeys(WORTH[ask], 0))
        choices.update(vote.choice for vote in votes if ballots[vote.ballot].sides == (i,))
        what = MEANS[ask] if ask is Ask.CAPTION or i == 0 else f"{MEANS[ask]}: its fool rate"
        found.append(_share(f"{name} {what}", keys, means, choices))
    if ask is Ask.CAPTION:
        found += _paired(names, ballots, means)
    return found


def _share(what: str, keys: Sequence[str], means: Worths, choices: Counter[str]) -> dict[str, Any]:
    share = Share(successes=sum(means[key] for key in keys), n=len(keys))
    return {"what": what} | share.as_json() | {"choices": dict(choices)}


def _side_of(vote: Vote, first: str) -> str:
    return "tie" if vote.winner is None else "better" if vote.winner == first else "worse"


def _paired(names: Sequence[str], ballots: dict[str, Ballot], means: Worths) -> list[dict[str, Any]]:
    """Of captions that were voted on in both sides: how often one shows it better."""
    found = []
    rows = [
        {ballots[key].item: value for key, value in means.items() if ballots[key].sides == (i,)}
        for i in range(len(names))
    ]
    for i, j in combinations(range(len(names)), 2):
        both = sorted(rows[i].keys() & rows[j].keys())
        wins = sum(0.5 * (1 + (rows[i][item] > rows[j][item]) - (rows[i][item] < rows[j][item])) for item in both)
        what = f"{names[i]} shows it better than {names[j]}, caption by caption"
        found.append({"what": what} | Share(successes=wins, n=len(both)).as_json())
    return found


def _strengths(names: Sequence[str], ballots: dict[str, Ballot], means: Worths) -> list[dict[str, Any]]:
    wins = np.zeros((len(names), len(names)))
    for key, value in means.items():
        i, j = ballots[key].sides
        wins[i, j] += value
        wins[j, i] += 1 - value
    found = zip(names, *(each.tolist() for each in strengths(wins)), strict=True)
    ranked = sorted(found, key=lambda row: -row[1])
    return [{"side": name, "strength": strength, "half": half} for name, strength, half in ranked]


def _agreement(votes: Sequence[Vote]) -> dict[str, float] | None:
    """Of two voters on one ballot: the share of equal choices, and what draws from all choices would give."""
    given: dict[str, list[str]] = {}
    for vote in votes:
        given.setdefault(vote.ballot, []).append(vote.winner or vote.choice)
    compared = [a == b for choices in given.values() for a, b in combinations(choices, 2)]
    if not compared:
        return None
    shares = Counter(choice for choices in given.values() if len(choices) > 1 for choice in choices)
    chance = sum((num / shares.total()) ** 2 for num in shares.values())
    return {"same": sum(compared) / len(compared), "chance": chance, "n": len(compared)}


def _left(votes: Sequence[Vote]) -> dict[str, float] | None:
    """How often left was chosen, ties aside: half of the time unless voters prefer a place."""
    chosen = [vote.choice == "left" for vote in votes if vote.choice != "tie"]
    return Share(successes=sum(chosen), n=len(chosen)).as_json() if chosen else None
