"""What a preview costs, and only when somebody looks: WebP of at most 256 px in data: URLs, and the time that is left."""

import base64
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from cascade.events import Preview
from cascade.link import Link
from cascade.stats import StageStats
from data.batch import to_float, to_uint8
from data.resize import downsample

from .jobs import Job

MAX_SIDE = 256
QUALITY = 80


def pil(image: Tensor) -> Image.Image:
    """Of uint8 (c, h, w)."""
    return Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())


def encode(image: Tensor, kind: str, quality: int = 90) -> bytes:
    """uint8 (c, h, w) as png, webp or jpeg."""
    out = io.BytesIO()
    options: dict[str, Any] = {} if kind == "png" else {"quality": quality}
    pil(image).save(out, format=kind.upper(), **options)
    return out.getvalue()


def small(images: Tensor) -> Tensor:
    """uint8 (b, c, h, w) with no side above MAX_SIDE."""
    h, w = images.shape[-2:]
    if max(h, w) <= MAX_SIDE:
        return images
    scale = MAX_SIDE / max(h, w)
    return to_uint8(downsample(to_float(images), (max(1, round(h * scale)), max(1, round(w * scale)))))


def preview_data(event: Preview, images: Tensor, eta_s: float | None) -> dict[str, Any]:
    """images: uint8, what may be shown of the event."""
    rows = zip(event.index, small(images), strict=True)
    pictures = [
        {"k": k, "data": f"data:image/webp;base64,{base64.b64encode(encode(image, 'webp', QUALITY)).decode()}"}
        for k, image in rows
    ]
    return {
        "stage": event.stage, "index": list(event.index), "step": event.step, "nfe": event.nfe,
        "eta_s": eta_s, "pictures": pictures,
    }  # fmt: skip


def time_left(job: Job, links: Sequence[Link], stages: Mapping[str, StageStats]) -> float | None:
    """Seconds until a job ends, by the pace it had, waiting and company included; None where nothing was done or what a stage costs
    is not known. links: of the job."""
    if job.started is None or not all(stages[link.name].calls for link in links):
        return None
    total = done = 0.0
    for link in links:
        call_s = stages[link.name].busy_s / stages[link.name].calls
        total += call_s * link.nfe * len(job.row.request["index"])
        done += call_s * job.calls[link.name]
    spent_s = time.monotonic() - job.started
    return round(max(0.0, spent_s * (total - done) / done), 2) if done else None
