"""Previews for watchers, encoded on demand: data: URLs of WebP with sides of at most 256 px, and an estimate of the time
left."""

import base64
import io
import time
from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from torch import Tensor

from cascade.engine.stats import HostStats
from cascade.events import Preview
from cascade.plan import Plan
from data.alpha import on_background, to_image
from data.batch import to_float, to_uint8
from data.resize import downsample

from ..jobs.job import Job

PREVIEW_SIDE = 256
LOSSLESS_SIDE = 128  # smaller pictures are shown enlarged, which makes WebP's losses visible
QUALITY = 80


def encode(image: Tensor, kind: str, quality: int = 90) -> bytes:
    """uint8 (c, h, w) encoded as png, webp or jpeg, which holds no transparency: there it is laid on white."""
    image = on_background(image) if kind == "jpeg" else image
    return _encode(image, kind, **({} if kind == "png" else {"quality": quality}))


def encode_preview(image: Tensor) -> bytes:
    """uint8 (c, h, w) encoded as WebP, lossless if both sides are below LOSSLESS_SIDE."""
    if max(image.shape[-2:]) < LOSSLESS_SIDE:
        return _encode(image, "webp", lossless=True, quality=0, method=0)  # the fastest settings
    return _encode(image, "webp", quality=QUALITY)


def data_url(image: Tensor) -> str:
    """A preview uint8 (c, h, w) as an address that holds it."""
    return f"data:image/webp;base64,{base64.b64encode(encode_preview(image)).decode()}"


def _encode(image: Tensor, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    to_image(image).save(out, format=kind.upper(), **options)
    return out.getvalue()


def small(images: Tensor) -> Tensor:
    """uint8 (b, c, h, w) shrunk so that no side exceeds MAX_SIDE."""
    h, w = images.shape[-2:]
    if max(h, w) <= PREVIEW_SIDE:
        return images
    scale = PREVIEW_SIDE / max(h, w)
    return to_uint8(downsample(to_float(images), (max(1, round(h * scale)), max(1, round(w * scale)))))


def preview_data(event: Preview, images: Tensor, eta_s: float | None) -> dict[str, Any]:
    """Data of a preview for clients. images: uint8, those of the event that may be shown. eta_s: time left."""
    pictures = [{"k": k, "data": data_url(image)} for k, image in zip(event.index, small(images), strict=True)]
    if (maps := event.uncertainty) is not None:
        for picture, image in zip(pictures, small(maps), strict=True):
            picture["uncertainty"] = data_url(image)
    return {
        "stage": event.stage, "index": list(event.index), "step": event.step, "nfe": event.nfe,
        "eta_s": eta_s, "pictures": pictures,
    }  # fmt: skip


def partial_marks(plan: Plan, num: int) -> tuple[int, ...]:
    """Numbers of the previews of an image to show, `num` of them: the first, then evenly over the work, which is
    proportional to the pixels of a call. The last preview is left out if there are enough, since it is the result."""
    done = list(accumulate(h * w for link, (h, w) in zip(plan.links, plan.sizes, strict=True) for _ in range(link.nfe)))
    calls = max(1, len(done) - 1)
    num = min(num, calls)
    marks: list[int] = []
    for k in range(num):
        even = bisect_left(done, done[-1] * k / num) + 1
        marks.append(min(max(even, marks[-1] + 1 if marks else 1), calls - (num - 1 - k)))
    return tuple(marks)


def time_left(job: Job, plan: Plan, stats: Mapping[str, HostStats]) -> float | None:
    """Estimated seconds until a job ends, at its pace so far with waiting and shared calls included; None before its first
    answer and if a stage's cost is unknown. plan: the job's."""
    hosts = {link.name: [stats[link.hosts[name].name] for name in link.rows] for link in plan.links}
    if job.started is None or not all(host.calls for group in hosts.values() for host in group):
        return None
    total = done = 0.0
    for link in plan.links:
        call_s = sum(host.busy_s / host.calls for host in hosts[link.name])
        total += call_s * link.nfe * len(plan.index)
        done += call_s * job.calls[link.name]
    spent_s = time.monotonic() - job.started
    return round(max(0.0, spent_s * (total - done) / done), 2) if done else None
