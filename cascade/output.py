"""Where the pictures of a request go: one grid, or single files as each chunk is done; each with what made it in its metadata."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .events import Event, StageFinished
from .link import cut, with_settings
from .pictures import columns_for, grid, save_png
from .pipeline import Cascade
from .request import Request


@dataclass(frozen=True)
class Output:
    """is_grid: `path` is one .png; else a folder of single files. stages: the pictures of every stage, not only the last."""

    path: Path
    is_grid: bool
    stages: bool

    @property
    def folder(self) -> Path:
        return self.path.parent if self.is_grid else self.path

    def write(self, events: Iterable[Event], model: Cascade, request: Request) -> Iterator[Path]:
        """Consumes the events; yields each file when it is whole. The folder is made before the first event is asked for."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, f"{self.folder} cannot be made ({error.strerror})") from None
        write = self._grids if self.is_grid else self._singles
        wanted = (e for e in events if isinstance(e, StageFinished) and (e.last or self.stages))
        return write(wanted, model, request)

    def _singles(self, events: Iterable[StageFinished], model: Cascade, request: Request) -> Iterator[Path]:
        for event in events:
            for image, index in zip(event.images, event.index, strict=True):
                path = self.path / f"{index:06d}{'' if event.last else '.' + event.stage}.png"
                save_png(image, path, describe(model, request, index))
                yield path

    def _grids(self, events: Iterable[StageFinished], model: Cascade, request: Request) -> Iterator[Path]:
        kept: dict[str, list[Tensor]] = {}
        for event in events:
            kept.setdefault("" if event.last else event.stage, []).append(event.images)
        for stage, parts in kept.items():
            path = self.path.with_suffix(f".{stage}.png") if stage else self.path
            save_png(grid(torch.cat(parts), columns_for(request.total, request.places)), path, describe(model, request))
            yield path


def output_for(out: str, *, stages: bool) -> Output:
    """A .png for a grid, or a folder for single files. Raises ValueError if it cannot be written; makes nothing yet."""
    path = Path(out)
    is_folder = out.endswith("/") or path.is_dir()
    is_grid = path.suffix.lower() == ".png" and not is_folder
    if path.suffix and not is_grid and not is_folder:
        raise ValueError(f"--out {out}: write a name in .png for a grid, or a folder/ for single files")
    output = Output(path, is_grid, stages)
    there = next(place for place in (output.folder, *output.folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise unwritable(path, f"{there} is a file")
    if not os.access(there, os.W_OK):
        raise unwritable(path, f"{there} is not writable")
    return output


def unwritable(path: Path, why: str) -> ValueError:
    return ValueError(f"--out {path}: {why}; choose another place")


def describe(model: Cascade, request: Request, image: int | None = None) -> dict[str, Any]:
    """What made a picture, for its metadata: enough to make it again with the same bundles.

    Single picture `image` of one prompt is also picture `image` of a request for that prompt alone.
    """
    said: dict[str, Any] = {"seed": request.seed, "num": request.num, "precision": model.precision}
    for name, values in (("prompts", request.prompts), ("labels", request.labels)):
        if values:
            said[name] = list(values) if image is None else [values[request.place(image) % len(values)]]
    if image is not None:
        said["image"] = image
    if request.size:
        said["size"] = list(request.size)
    if request.low_res is not None:
        rows = request.low_res if image is None else cast(Tensor, request.given((image,)))[0]
        said["low_res"] = {"shape": list(rows.shape), "sha256": hashlib.sha256(rows.numpy().tobytes()).hexdigest()}
    # pictures of ours that go on have been through the stages before, a user's picture has not
    names = cut(model.names, "" if request.pick else request.first, request.last, "request")
    said["stages"] = {
        link.name: {
            "bundle": link.sidecar.sha256,
            "nimg": link.sidecar.provenance.nimg,
            "settings": link.settings.model_dump(mode="json"),
        }
        for link in with_settings(model.links, request.settings)
        if link.name in names
    }
    return said
