"""What a preview costs, and only when somebody looks: WebP of at most 256 px in data: URLs, and the time that is left."""

import base64
import io
import threading
from typing import Any

from PIL import Image
from torch import Tensor

from cascade.events import Preview
from data.batch import to_float, to_uint8
from data.resize import downsample

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


class Eta:
    """How long a stage took lately from its start to its end, for a guess at what is left; None before anything is known."""

    def __init__(self) -> None:
        self._mean_s: dict[str, float] = {}
        self._lock = threading.Lock()

    def tell(self, stage: str, spent_s: float) -> None:
        with self._lock:
            before = self._mean_s.get(stage, spent_s)
            self._mean_s[stage] = before + 0.3 * (spent_s - before)

    def left_s(self, stages: list[str], event: Preview) -> float | None:
        """stages: of the job, in order."""
        rest = stages[stages.index(event.stage) :]
        with self._lock:
            if any(stage not in self._mean_s for stage in rest):
                return None
            now, *later = (self._mean_s[stage] for stage in rest)
        return round(max(0.0, now * (1 - event.step / event.nfe) + sum(later)), 2)
