"""A vote under way: what each voter is shown next, and what they choose. Thread-safe; any number of voters at once."""

import hmac
import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

from cascade.judge.vote.ballots import CHOICES, QUESTIONS, Ask, Ballot, order_for, shown_to
from cascade.judge.vote.sides import Picture, Side
from cascade.judge.vote.votes import Vote, VotesFile

AHEAD = 2  # ballots whose pictures a page loads before they are shown


class StaleError(Exception):
    """A vote on a ballot that this voter is not shown: another tab was faster, or the page is of an earlier start."""


class Poll:
    """Ballots, a votes file, and names for both that say nothing: drawn anew at each start."""

    def __init__(self, ask: Ask, sides: Sequence[Side], ballots: Sequence[Ballot], file: VotesFile, seed: int):
        self.ask, self.sides, self.ballots, self.file, self.seed = ask, sides, ballots, file, seed
        self._secret = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._orders: dict[str, list[Ballot]] = {}
        self._again: dict[str, str | None] = {}  # the ballot that a voter has taken back
        self._pictures = {self._id("picture", i, each): each for i, row in self._rows() for each in row}

    def _rows(self) -> list[tuple[int, list[Picture]]]:
        numbers = range(len(self.sides))
        return [(i, [b.pictures[b.sides.index(i)] for b in self.ballots if i in b.sides]) for i in numbers]

    def _id(self, kind: str, side: int, picture: Picture | None = None, key: str = "") -> str:
        name = picture.name if picture else key
        text = "\0".join((kind, str(side), name)).encode("utf-8", "surrogateescape")
        return hmac.digest(self._secret, text, "sha256").hex()[:32]

    def picture(self, name: str) -> Picture | None:
        """The picture with this opaque name."""
        return self._pictures.get(name)

    def next(self, voter: str) -> dict[str, Any]:
        """What the page shows a voter now: pictures by opaque names, never a side."""
        with self._lock:
            return self._next(voter)

    def vote(self, voter: str, ballot: str, choice: str) -> dict[str, Any]:
        """Record a choice on the ballot that is shown. Raises StaleError for another, ValueError for no choice."""
        if choice not in CHOICES[self.ask]:
            raise ValueError(f"choice: {', '.join(CHOICES[self.ask])} are allowed")
        with self._lock:
            open_ballots = self._open(voter)
            if not open_ballots or self._id("ballot", 0, key=open_ballots[0].key) != ballot:
                raise StaleError
            current = open_ballots[0]
            shown = tuple(self.sides[current.sides[place]].name for place in shown_to(voter, current, self.seed))
            at = round(time.time(), 3)
            self.file.add(Vote(voter=voter, ballot=current.key, shown=shown, choice=choice, at=at))
            return self._next(voter)

    def undo(self, voter: str) -> dict[str, Any]:
        """Take the last vote back and show that ballot again."""
        with self._lock:
            self._again[voter] = self.file.undo(voter)
            return self._next(voter)

    def _open(self, voter: str) -> list[Ballot]:
        if voter not in self._orders:
            self._orders[voter] = order_for(voter, self.ballots, self.seed)
        voted = {each.ballot for each in self.file.of(voter)}
        left = [each for each in self._orders[voter] if each.key not in voted]
        return sorted(left, key=lambda each: each.key != self._again.get(voter))

    def _next(self, voter: str) -> dict[str, Any]:
        open_ballots = self._open(voter)
        told = {
            "question": QUESTIONS[self.ask], "choices": CHOICES[self.ask], "total": len(self.ballots),
            "done": len(self.ballots) - len(open_ballots), "can_undo": bool(self.file.of(voter)),
        }  # fmt: skip
        if not open_ballots:
            return told | {"ballot": None, "pictures": [], "caption": "", "ahead": []}
        current, *later = open_ballots[: 1 + AHEAD]
        caption = "" if self.ask is Ask.REAL else current.caption  # a made picture has one where a real one may not
        return told | {
            "ballot": self._id("ballot", 0, key=current.key), "pictures": self._shown(voter, current),
            "caption": caption, "ahead": [name for each in later for name in self._shown(voter, each)],
        }  # fmt: skip

    def _shown(self, voter: str, ballot: Ballot) -> list[str]:
        places = shown_to(voter, ballot, self.seed)
        return [self._id("picture", ballot.sides[place], ballot.pictures[place]) for place in places]
