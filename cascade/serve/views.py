"""What clients get to read."""

from collections.abc import Sequence

from typing_extensions import TypedDict

from .jobs import Data, Job
from .store import JobRow, PictureRow
from .writer import picture_url


class Accepted(TypedDict):
    """images: their numbers."""

    id: str
    images: list[int]
    stages: list[str]
    seed: int
    events: str
    url: str


class Error(TypedDict):
    code: str
    message: str
    type: str


class ErrorBody(TypedDict):
    error: Error


def accepted(job: Job, stages: list[str]) -> Accepted:
    assert job.request is not None
    url = f"/v1/jobs/{job.id}"
    return {
        "id": job.id, "images": list(job.request.index), "stages": stages, "seed": job.request.seed,
        "events": f"{url}/events", "url": url,
    }  # fmt: skip


def job_data(row: JobRow, state: str, pictures: Sequence[PictureRow]) -> Data:
    """From what is stored alone: the store may know jobs of a cascade that is no longer served."""
    asked = row.request
    made: dict[str, list[int]] = {}
    for picture in pictures:
        made.setdefault(picture.stage, []).append(picture.k)
    stages = [
        {
            "name": name,
            "side": side,
            "done": sorted(made.get(name, [])),
            "urls": [picture_url(row.id, name, k) for k in sorted(made.get(name, []))],
        }
        for name, side in asked["stages"].items()
    ]
    return {
        "id": row.id, "state": state, "created": row.created, "parent": row.parent or None,
        "prompts": asked["prompts"], "labels": asked["labels"], "num": asked["num"], "seed": asked["seed"],
        "settings": asked["settings"], "size": asked["size"] or None, "images": asked["index"], "stages": stages,
        "until": asked["last"], "url": f"/v1/jobs/{row.id}", "events": f"/v1/jobs/{row.id}/events",
    }  # fmt: skip
