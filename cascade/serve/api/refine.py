"""Refinement of stored pictures: hold after a stage and continue only some pictures, or repeat the later stages with other
settings."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cascade.link import cut, over
from cascade.output.metadata import sha256
from cascade.pipeline import Cascade
from cascade.request import Request
from cascade.source import Source
from data.alpha import to_pixels
from data.decode import decode_image

from ..http.limits import Limits, Refused
from ..jobs.store import PictureRow
from .bodies import RefineBody, Settings, batch_of, check_scales, guidance_from, seed_of, settings_within
from .sources import map_of, mask_from

OF_SOURCES = ("strength", "resample")


def refined(
    body: RefineBody,
    asked: dict[str, Any],
    settings: Settings,
    held: Sequence[PictureRow],
    read: Callable[[PictureRow], bytes],
    cascade: Cascade,
    limits: Limits,
) -> Request:
    """The request for a refinement. asked: the job's own, as stored; settings: its own with the new ones over them; held:
    its pictures.

    Raises ValueError for a stage or a picture that is not there.
    """
    check_scales(asked.get("guidance", ()), body.settings)
    names = cascade.names
    made = {picture.stage for picture in held}
    ends = names[:-1] if body.mask is None else names  # a region of finished pictures may be painted anew
    stage = body.stage or next((name for name in reversed(ends) if name in made), "")
    if not stage:
        raise ValueError("from: this job has no pictures of a stage to go on from; wait for one, or start a new job")
    if stage not in ends:
        raise ValueError(f"from: no stage {stage!r} to go on from; allowed are {', '.join(ends)}")
    stored = {picture.k: picture for picture in held if picture.stage == stage}
    pick = tuple(body.pick) or tuple(sorted(stored))
    missing = [k for k in pick if k not in stored]
    if missing or not pick:
        numbers = ", ".join(map(str, sorted(stored))) or "none"
        raise ValueError(f"pick: stage {stage} has no picture {missing[0] if missing else 'at all'}; it has {numbers}")
    channels = cascade.links[names.index(stage)].contract.channels
    pictures = torch.stack([pixels(read(stored[k]), channels) for k in pick])
    maps = map_again(body, asked, cascade, limits)
    if body.mask is not None:
        rest = cut(names, "", body.until, "request")
        if stage not in rest:
            raise ValueError(
                f"until: {body.until} comes before {stage}; allowed are {', '.join(names[names.index(stage) :])}"
            )
        return Request(
            prompts=tuple(asked["prompts"]),
            labels=tuple(asked["labels"]),
            num=asked["num"],
            seed=seed_of(body.seed),
            settings=settings_within(opened(anew(settings, body.settings), body), cascade, rest[0], rest[-1]),
            seconds=body.seconds,
            last=rest[-1],
            pick=pick,
            source=Source(images=pictures, mask=mask_from(body.mask, size_of(pictures), limits), stage=stage),
            batch=batch_of(len(pick)),
            maps=maps,
            uncertainty=body.uncertainty,
            **guidance_from(asked),
        )
    if body.seed is not None:
        raise ValueError("seed: the later stages go on with the job's own; it goes with a mask, leave it out")
    source = asked.get("source", "")
    if source in names and names.index(stage) < names.index(source):
        raise ValueError(
            f"from: stages up to {source} painted over a picture that is not kept; send it again in a new job"
        )
    later = names[names.index(stage) + 1 :]
    if body.until and body.until in names and body.until not in later:
        raise ValueError(f"until: {body.until} is not made from {stage}; allowed are {', '.join(later)}")
    done = [name for name in body.settings if name in names and name not in later]
    if done:
        raise ValueError(f"settings: stage {done[0]} is done; allowed are {', '.join(later)}")
    rest = cut(names, names[names.index(stage) + 1], body.until, "request")
    return Request(
        prompts=tuple(asked["prompts"]),
        labels=tuple(asked["labels"]),
        num=asked["num"],
        seed=asked["seed"],
        settings=settings_within(opened(settings, body), cascade, rest[0], rest[-1]),
        seconds=body.seconds,
        first=rest[0],
        last=rest[-1],
        pick=pick,
        low_res=pictures,
        batch=batch_of(len(pick)),
        maps=maps,
        uncertainty=body.uncertainty,
        **guidance_from(asked),
    )


def map_again(body: RefineBody, asked: dict[str, Any], cascade: Cascade, limits: Limits) -> torch.Tensor | None:
    """The map of a job, which the client sends again; None if it had none. Raises ValueError, Refused."""
    if "map" not in asked:
        if body.map is not None:
            raise ValueError("map: this job was made without one; leave it out")
        return None
    if body.map is None:
        raise ValueError("map: this job was made with one, which is not kept; send it again")
    maps = map_of(body.map, cascade.conditions, limits)
    if sha256(maps) != asked["map"]:
        raise ValueError("map: another one than this job was made with; send that one")
    return maps


def anew(settings: Settings, now: Settings) -> Settings:
    """Settings by stage without those of the picture that the job itself painted over, unless they are given `now`."""
    return {
        name: {key: value for key, value in values.items() if key not in OF_SOURCES or key in now.get(name, {})}
        for name, values in settings.items()
    }


def opened(settings: Settings, body: RefineBody) -> Settings:
    """Settings by stage without the num_steps that the job had, where the body has `seconds` and does not say them itself."""
    if body.seconds is None:
        return settings
    return {
        name: {key: value for key, value in values.items() if key != "num_steps" or key in body.settings.get(name, {})}
        for name, values in settings.items()
    }


def size_of(pictures: torch.Tensor) -> tuple[int, int]:
    """(height, width) of pictures (b, c, h, w)."""
    return pictures.shape[-2], pictures.shape[-1]


def settings_over(before: Settings, now: Settings) -> Settings:
    """Settings by stage: those of the job, with the new ones over them."""
    return before | {name: over(before.get(name, {}), values) for name, values in now.items()}


def pixels(content: bytes, channels: int) -> torch.Tensor:
    """uint8 (channels, h, w) of a stored PNG. Raises Refused (410) if it is damaged."""
    try:
        return torch.tensor(to_pixels(decode_image(content, alpha=channels == 4)))
    except ValueError:
        raise Refused(410, "expired", "this picture is damaged on the disk; start the job again") from None
