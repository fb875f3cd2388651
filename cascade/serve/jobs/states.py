"""The state of a job: which there are, and what each may become.

    queued -> running -> held | finished | failed | cancelled -> expired

An open job owns its state (`jobs.Job`): the writer moves it on, everyone else reads it. The store keeps it for when the job is no
longer open, and there it expires. The last milestone of a job is called like the state that it brings.
"""

from typing import Literal, NotRequired, get_args

from typing_extensions import TypedDict

End = Literal["held", "finished", "failed", "cancelled"]
State = Literal["queued", "running", End, "expired"]
ENDED: tuple[End, ...] = get_args(End)
EXPIRED: Literal["expired"] = "expired"
NEXT: dict[State, tuple[State, ...]] = {
    "queued": ("running", "failed", "cancelled"),
    "running": ENDED,
    **dict.fromkeys(ENDED, (EXPIRED,)),
    "expired": (),
}


class Failure(TypedDict):
    """Why a job failed."""

    code: str
    message: str
    stage: NotRequired[str]


def moved(before: State, after: State) -> State:
    """The state after, where the one before may become it."""
    assert after in NEXT[before], f"a job that is {before} becomes {after}"
    return after
