"""The votes file: JSON lines, a head that says what was asked about which pictures, then a vote or an undo each.

A line is on disk (fsync) before the voter sees the next pictures. What a kill left of the last line is cut off; anything else that
is no vote is an error, for votes are not guessed.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cascade.judge.vote.ballots import CHOICES, Ask, Ballot
from cascade.judge.vote.sides import Side
from data.errors import disk_told

VERSION = 1
LONGEST_NAME = 40


@dataclass(frozen=True, kw_only=True)
class Vote:
    """What a voter chose. ballot: its key. shown: names of the sides from left to right. at: seconds since 1970."""

    voter: str
    ballot: str
    shown: tuple[str, ...]
    choice: str
    at: float

    @property
    def winner(self) -> str | None:
        """The side that is better; None of a tie."""
        return {"left": self.shown[0], "right": self.shown[-1]}.get(self.choice)


def head_of(ask: Ask, sides: Sequence[Side], seed: int) -> dict[str, Any]:
    """The first line: with other pictures, question or seed it is another vote."""
    told = [{"name": side.name, "num": len(side.pictures), "sha256": side.sha256} for side in sides]
    return {"vote": VERSION, "ask": str(ask), "seed": seed, "sides": told}


class VotesFile:
    """The votes of one file, in memory and on disk. Whoever writes holds its lock (`data.files.held`)."""

    def __init__(self, path: Path, head: dict[str, Any], ballots: Sequence[Ballot]):
        self.path, self.head = path, head
        self._keys = {each.key for each in ballots}
        self._votes: dict[tuple[str, str], Vote] = {}  # the last is the last given
        self._whole_bytes = self._read() if path.exists() else 0

    @property
    def votes(self) -> list[Vote]:
        """All that stand, in the order in which they were given."""
        return list(self._votes.values())

    def of(self, voter: str) -> list[Vote]:
        """Those of one voter."""
        return [each for each in self._votes.values() if each.voter == voter]

    def start(self) -> None:
        """Cut what a kill left of a line, and write the head of a new file."""
        with disk_told(self.path):
            if self._whole_bytes:
                os.truncate(self.path, self._whole_bytes)
            else:
                self.path.write_bytes(b"")
                self._append(self.head)

    def add(self, vote: Vote) -> None:
        """Append a vote. Raises OSError, as on a full disk: then it does not count."""
        self._append(asdict(vote))
        self._take(vote)

    def undo(self, voter: str) -> str | None:
        """Take a voter's last vote back; returns its ballot, None if there is none."""
        votes = self.of(voter)
        if not votes:
            return None
        self._append({"voter": voter, "undo": votes[-1].ballot, "at": round(time.time(), 3)})
        del self._votes[voter, votes[-1].ballot]
        return votes[-1].ballot

    def _take(self, vote: Vote) -> None:
        self._votes.pop((vote.voter, vote.ballot), None)
        self._votes[vote.voter, vote.ballot] = vote

    def _append(self, fields: dict[str, Any]) -> None:
        content = json.dumps(fields).encode() + b"\n"
        with self.path.open("ab") as file:
            whole = file.tell()
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, whole)
                raise

    def _read(self) -> int:
        """Read the file; returns its bytes up to the last whole line. Raises ValueError for another vote's file."""
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            if content and not b'{"vote": '.startswith(content[:9]):
                raise ValueError(f"{self.path}: is there and no votes file; name another with --votes")
            return 0  # killed in its first line
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                fields = json.loads(line)
                if number == 1:
                    self._check_head(fields)
                else:
                    self._take_line(fields)
            except (LookupError, TypeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError):
                raise ValueError(
                    f"{self.path} line {number} is no vote; mend the file, or name another with --votes"
                ) from None
        return len(whole)

    def _take_line(self, fields: dict[str, Any]) -> None:
        if "undo" in fields:
            self._votes.pop((fields["voter"], fields["undo"]), None)
            return
        vote = Vote(**{**fields, "shown": tuple(fields["shown"])})
        if vote.choice not in CHOICES[Ask(self.head["ask"])]:
            raise LookupError
        if vote.ballot in self._keys:  # with a smaller --num there are fewer
            self._take(vote)

    def _check_head(self, head: dict[str, Any]) -> None:
        if head["vote"] != VERSION:
            raise ValueError(f"{self.path}: version {head['vote']} of votes; this program reads {VERSION}")
        for key in ("ask", "seed"):
            if head[key] != self.head[key]:
                raise ValueError(
                    f"{self.path}: its votes are of --{key} {head[key]}, not {self.head[key]}; name another with --votes"
                )
        before, now = ([side["sha256"] for side in each["sides"]] for each in (head, self.head))
        if before != now:
            names = ", ".join(str(side["name"]) for side in head["sides"])
            which = [each["name"] for each in self.head["sides"] if each["sha256"] not in before]
            told = f"{', '.join(which)} has other pictures" if which else "the sides stand in another order"
            raise ValueError(f"{self.path}: its votes are of {names}, and {told}; name another file with --votes")


def check_voter(name: object) -> str:
    """A voter's name without blanks around it. Raises ValueError unless it is one line of 1 to 40 printable characters."""
    text = name.strip() if isinstance(name, str) else ""
    if not 1 <= len(text) <= LONGEST_NAME or not text.isprintable():
        raise ValueError(f"voter: a name of 1 to {LONGEST_NAME} printable characters is needed")
    return text
