"""`/v1/models`: OpenAI's list, extended by all that a page needs to know about the cascade."""

from dataclasses import asdict

from cascade.link import Link
from stages.config import SampleConfig
from stages.diffusion.grids import GRIDS
from stages.diffusion.samplers import SAMPLERS
from stages.unfit import PARTS

from ..http.limits import Limits
from ..jobs.job import Data
from .service import Service

PUBLIC_LIMITS = ("images", "prompt_chars", "steps", "scale", "upload_pixels", "body_bytes", "open_jobs", "jobs_per_min")


def models(service: Service) -> Data:
    """A list of one model with its stages, conditioning, ranges of settings and limits."""
    conditions = service.cascade.conditions
    kind = "text" if conditions.text else "class" if conditions.num_classes else "none"
    cascade = {
        "stages": [stage(link, service.limits) for link in service.cascade.links],
        "conditioning": kind,
        "num_classes": conditions.num_classes,
        "classes": list(conditions.classes),
        "maps": max(conditions.maps, default=0),
        "limits": {name: value for name, value in asdict(service.limits).items() if name in PUBLIC_LIMITS},
    }
    model = {"id": service.name, "object": "model", "created": 0, "owned_by": "cascade", "cascade": cascade}
    return {"object": "list", "data": [model]}


def stage(link: Link, limits: Limits) -> Data:
    """One stage; sides are in px, ranges are the bounds of sliders."""
    return {
        "name": link.name,
        "side": link.contract.resolution,
        "low_res": link.contract.low_res,
        "nfe": link.nfe,
        "uncertainty": link.sidecar.config.learned_variance,
        "settings": link.settings.model_dump(mode="json"),
        "ranges": ranges(link, limits),
    }


def ranges(link: Link, limits: Limits) -> Data:
    """Bounds of settings, with the options of the stage's own sampler and grid; None if a setting has no effect. Scales of single
    conditions only where a stage has two."""
    fields = SampleConfig.model_json_schema()["properties"]
    scale = [fields["guidance_scale"]["minimum"], fields["guidance_scale"]["maximum"]]
    read = {**SAMPLERS[link.settings.sampler].options, **GRIDS[link.settings.grid].options}
    are_apart = all(part in link.guided_parts for part, _ in PARTS.values())
    return {
        "num_steps": [1, limits.steps],
        "guidance_scale": scale if link.is_guidable else None,
        **({key: scale for key in PARTS} if are_apart else {}),
        "aug_sigma": [0.0, link.contract.max_aug_sigma] if link.contract.low_res else None,
        **({"consistency": [0.0, 1.0], "colour": [0.0, 1.0]} if link.contract.low_res else {}),
        "sampler": fields["sampler"]["enum"],
        "grid": fields["grid"]["enum"],
        **{name: option.range for name, option in read.items()},
    }
