"""What clients get to read."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from ..http.limits import Refused
from ..jobs.job import Data, Job
from ..jobs.states import Failure, State
from ..jobs.store import JobRow, PictureRow
from ..jobs.writer import picture_url


class Accepted(TypedDict):
    """images: their numbers."""

    id: str
    images: list[int]
    stages: list[str]
    seed: int
    events: str
    url: str


class Error(TypedDict):
    """param: the field that is wrong, on OpenAI's route."""

    code: str
    message: str
    type: str
    param: NotRequired[str | None]


class ErrorBody(TypedDict):
    error: Error


class StageView(TypedDict):
    """done: numbers of the pictures that are there, urls: where."""

    name: str
    side: int
    done: list[int]
    urls: list[str]


class JobView(TypedDict):
    """until: the stage it holds after, "" for the last one. size: [width, height]. images: their numbers."""

    id: str
    state: State
    created: float
    parent: str | None
    prompts: list[str]
    labels: list[int]
    num: int
    seed: int
    settings: dict[str, dict[str, Any]]
    size: list[int] | None
    images: list[int]
    stages: list[StageView]
    until: str
    url: str
    events: str
    error: NotRequired[Failure | None]


class JobsView(TypedDict):
    jobs: list[JobView]
    next: str | None


class ModelStage(TypedDict):
    name: str
    side: int
    low_res: int | None
    nfe: int
    settings: dict[str, Any]
    ranges: dict[str, Any]


class CascadeView(TypedDict):
    stages: list[ModelStage]
    conditioning: Literal["text", "class", "none"]
    num_classes: int
    classes: list[str]
    limits: dict[str, int]


class ModelView(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    cascade: CascadeView


class ModelsView(TypedDict):
    object: Literal["list"]
    data: list[ModelView]


class ImageView(TypedDict):
    b64_json: str


class ImagesView(TypedDict):
    """usage: nothing is counted in tokens, all are 0."""

    created: int
    data: list[ImageView]
    output_format: Literal["png", "webp", "jpeg"]
    size: str
    usage: dict[str, Any]


def accepted(job: Job, root_path: str) -> Accepted:
    assert job.plan is not None
    url = f"{root_path}/v1/jobs/{job.id}"
    return {
        "id": job.id, "images": list(job.plan.index), "stages": job.plan.names, "seed": job.plan.request.seed,
        "events": f"{url}/events", "url": url,
    }  # fmt: skip


def job_data(row: JobRow, state: State, pictures: Sequence[PictureRow]) -> Data:
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
        "settings": asked["settings"], "size": asked["size"][::-1] or None, "images": asked["index"], "stages": stages,
        "until": asked["last"], "url": f"/v1/jobs/{row.id}", "events": f"/v1/jobs/{row.id}/events",
    }  # fmt: skip


def mounted(said: Data, root_path: str) -> Data:
    """Jobs, or the data of an event, with links under the path where a proxy has the server; what is stored lacks that."""
    found = said | {name: f"{root_path}{said[name]}" for name in ("url", "events") if name in said}
    if "urls" in said:
        found["urls"] = [f"{root_path}{url}" for url in said["urls"]]
    for name in ("jobs", "stages", "pictures"):
        if name in said:
            found[name] = [mounted(each, root_path) for each in said[name]]
    return found


def history(jobs: Sequence[Data], limit: int, *, is_more: bool) -> Data:
    """`limit` of these jobs, newest first; next: what `before` says to get those behind the last one, null where there are none."""
    shown = jobs[:limit]
    is_more = is_more or len(jobs) > limit
    return {"jobs": list(shown), "next": f"{shown[-1]['created']!r}:{shown[-1]['id']}" if is_more and shown else None}


def cursor(before: str) -> tuple[float, str]:
    """created and id out of `next`; "": before everything. Raises Refused."""
    if not before:
        return math.inf, ""
    created, _, job = before.partition(":")
    try:
        found = float(created)
    except ValueError:
        found = math.nan
    if math.isnan(found) or not job:
        raise Refused(422, "invalid_request", f"before: {before[:60]!r}; send what `next` of the page before says")
    return found, job
