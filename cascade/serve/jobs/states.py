"""The states of a job and the transitions between them.

    queued -> running -> held | finished | failed | cancelled -> expired

A queued job may also fail or be cancelled. An open job owns its state (`jobs.job.Job`): the writer changes it, everyone
else reads it. The store records the state for the time after that, and only there do jobs expire. The last milestone of a
job has the name of the state that it sets.
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
    """Why a job failed. stage: the one that failed, if known."""

    code: str
    message: str
    stage: NotRequired[str]


def moved(before: State, after: State) -> State:
    """The new state, after asserting that the transition is allowed."""
    assert after in NEXT[before], f"a job that is {before} becomes {after}"
    return after
