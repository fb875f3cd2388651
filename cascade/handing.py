"""Stages that stop at a level above 0 (`sample.sigma_end`), and what the stage after them is told (stages/handover.py).

`handover: x` hands the noisy x itself on, `x0_hat` the estimate at that level. Either way the next stage's aug_sigma is the std
that white noise of sigma_end has after THE upsample: in x it is there already, to x0_hat it is added.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from stages.diffusion.samplers import SAMPLERS
from stages.guidance import GUIDE
from stages.handover import UPSAMPLED
from stages.unfit import BY_LOW_RES

from .link import Link


def with_handovers(
    chain: list[Link], names: list[str], given: Mapping[str, Mapping[str, Any]], refined: str = ""
) -> list[Link]:
    """The chain where each stage of `names` after one that stops early has the aug_sigma of what it gets. given: settings that the
    request itself names. refined: the stage of `names` that goes on from kept pictures, "" for none. Raises ValueError for a stage
    that cannot stop, or cannot take what is handed on."""
    told = list(chain)
    for number, (link, after) in enumerate(pairwise([*chain, None])):
        assert link is not None
        if link.name not in names or not link.settings.sigma_end:
            continue
        for reason in unfit(link, after if after is not None and after.name in names else None):
            raise ValueError(f"stage {link.name}: sigma_end {link.settings.sigma_end:g}: {reason}")
        assert after is not None
        if after.name == refined and link.settings.handover == "x":
            raise ValueError(
                f"stage {link.name}: sigma_end {link.settings.sigma_end:g}: {after.name} went on from its noisy x, which is not "
                "kept; make the pictures anew, with handover x0_hat if they are to be refined"
            )
        level = UPSAMPLED * link.settings.sigma_end
        asked = given.get(after.name, {}).get("aug_sigma")
        if asked is not None and not math.isclose(float(asked), level, rel_tol=1e-6):
            raise ValueError(
                f"settings of stage {after.name}: aug_sigma {asked}: stage {link.name} stops at {link.settings.sigma_end:g}, which "
                f"makes it {level:.4g}; leave it out"
            )
        told[number + 1] = replace(after, settings=after.settings.model_copy(update={"aug_sigma": level}))
    return told


def unfit(link: Link, after: Link | None) -> Iterator[str]:
    """Why a stage may not stop early before the stage `after`, None where the request ends with it."""
    settings = link.settings
    if after is None:
        yield "no stage comes after it here, and its pictures would stay unfinished; set it to 0"
        return
    trained = {after.name: after.contract.max_aug_sigma}
    if after.settings.autoguidance_scale != 1 and (guide := after.hosts.get(GUIDE)):
        trained[f"the guide of {after.name}"] = guide.stage.config.max_aug_sigma
    level, (name, most) = UPSAMPLED * settings.sigma_end, min(trained.items(), key=lambda item: item[1])
    if level > most:
        yield (
            f"once upsampled it is aug_sigma {level:.3g}, above {most:g}, the largest that {name} was trained on; stop at a lower "
            "level"
        )
    if settings.resample > 1:
        yield f"resample {settings.resample} goes on to the end; leave one of them out"
    if settings.handover == "x0_hat":
        return
    if not SAMPLERS[settings.sampler].stops:
        yield f"{settings.sampler} has no x of that level to hand on; set handover to x0_hat, or choose another sampler"
    for each in (link, after):
        for key in BY_LOW_RES:
            if getattr(each.settings, key):
                yield (
                    f"{key} of {each.name} corrects finished pictures, and x is noisy; set handover to x0_hat, or leave it out"
                )
    space = link.sidecar.config.space
    if space != after.sidecar.config.space or space.scale != 1:
        yield f"{after.name} does not take x of space {space.kind}; set handover to x0_hat"
