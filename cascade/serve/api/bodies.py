"""Request bodies and the `Plan` that each results in, checked against the limits before any work.

Pictures come as base64 inside the JSON; addresses are refused, since nothing is ever fetched for a client.
"""

import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core.core_schema import CoreSchema, no_info_before_validator_function
from torch import Tensor

from cascade.budget import measured
from cascade.link import Link, cut, with_settings
from cascade.output.maps import check_proportions
from cascade.output.metadata import sha256
from cascade.output.pictures import fitted, fitted_size
from cascade.output.upscale import agreeing, choose_start
from cascade.pipeline import Cascade
from cascade.plan import Plan
from cascade.request import MAX_SEED, MAX_SIDE, MAX_WEIGHT, Request, composed_of
from cascade.source import Source
from data.alpha import to_pixels
from data.decode import FORMATS, decode_image, image_size
from stages.sample_config import WORDS

from ..http.limits import Limits, Refused, mistakes
from .sources import map_of, source_from, unpack, with_strength

Name = Annotated[str, Field(max_length=200)]
Settings = dict[Name, dict[Name, int | float | Name | list[float]]]

CHUNK = 4


MANY = 64  # fields, stages, or settings of a stage
DIGITS = "-?[0-9]{1,19}"
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Speeds = Callable[[Plan], Mapping[str, float]]
"""Seconds of a row of a call by host, in calls as large as a plan's."""


class Body(BaseModel):
    """A request body: values are not converted, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, given: Any) -> Any:
        """Refuse too many values: reporting the errors of a million would take a minute."""
        if isinstance(given, dict):
            settings = given.get("settings")
            stages = settings if isinstance(settings, dict) else {}
            values = [value for stage in stages.values() if isinstance(stage, dict) for value in stage.values()]
            lists = [value for value in values if isinstance(value, list | dict)]
            parts = [given, stages, *stages.values(), *lists]
            if len(values) > 2 * MANY or any(isinstance(part, dict | list) and len(part) > MANY for part in parts):
                raise ValueError(f"more than {MANY} fields or settings")
        return given


class ComposedText(Body):
    """A further text, whose difference is added to every prompt's with this weight; below 0 it leads away from the text."""

    text: str
    weight: Annotated[float, Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT)] = 1.0


Scales = Annotated[list[Annotated[float, Field(ge=0, le=MAX_WEIGHT)]], Field(max_length=10_000)]


class JobBody(Body):
    """`num` images for each of `prompts`, `labels` or pairs of them (as many of both, or one with all of the other; neither:
    unconditional), or for `image`. seed: random if left out. until: hold after this stage. size: [width, height]. fit: first
    shrink the image until its shorter side is what its first stage was trained to enlarge. negative_prompt: what guidance leads
    away from, in place of no prompt. composed: further texts of every prompt. guidance: by stage a guidance_scale for each prompt,
    label or pair, or several for a single one. same_noise: of each of these the images begin with the same noise. seconds: for the
    networks, all images together: as many steps as they can do in that time, in the stages whose num_steps is not in settings.

    mask, strength, invert: paint over `image`, of the size of the result, instead of enlarging it: where the mask of its size is
    white; from so much noise; from the noise that gives it under this caption of it, and under invert_label.

    map: a picture that says what is where, of the proportions of the result, for cascades that were trained with maps.

    uncertainty: previews of stages that can tell it have a map of how unsure each pixel is yet."""

    prompts: Annotated[list[str], Field(max_length=10_000)] = []
    labels: Annotated[list[int | Name], Field(max_length=10_000)] = []
    num: Annotated[int, Field(ge=1, le=10_000)] = 1
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    until: Name = ""
    settings: Settings = {}
    size: Annotated[list[Annotated[int, Field(ge=1, le=MAX_SIDE)]], Field(min_length=2, max_length=2)] | None = None
    image: str | None = None
    fit: bool = False
    negative_prompt: str = ""
    composed: Annotated[list[ComposedText], Field(max_length=16)] = []
    guidance: Annotated[dict[Name, Scales], Field(max_length=MANY)] = {}
    same_noise: bool = False
    seconds: Seconds | None = None
    mask: str | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    invert: str | None = None
    invert_label: int | Name | None = None
    map: str | None = None
    uncertainty: bool = False

    @property
    def paints_over(self) -> bool:
        """Whether the image is painted over, not enlarged."""
        return any(value is not None for value in (self.mask, self.strength, self.invert, self.invert_label))

    @property
    def described(self) -> int:
        """Number of descriptions."""
        return max(len(self.prompts), len(self.labels), *map(len, self.guidance.values()), 1)


class RefineBody(Body):
    """Continue the pictures `pick` (none: all) that the stage `from` gave. mask: paint them anew where it is white, of the size of
    that stage's pictures, from the first stage on; seed: of what is painted, random if left out. seconds: as for a new job; then
    settings must say which num_steps stand. map: that of the job, which is not kept. uncertainty: as for a new job."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)
    stage: Annotated[Name, Field(alias="from")] = ""
    pick: Annotated[list[int], Field(max_length=10_000)] = []
    until: Name = ""
    settings: Settings = {}
    mask: str | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    seconds: Seconds | None = None
    map: str | None = None
    uncertainty: bool = False


@dataclass(frozen=True)
class Digits:
    """Annotation that also accepts an integer as text, which some clients send."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def number(given: Any) -> Any:
            return int(given) if isinstance(given, str) and re.fullmatch(DIGITS, given) else given

        return no_info_before_validator_function(number, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "string", "pattern": f"^{DIGITS}$"}]}


class ImagesBody(Body):
    """Body of OpenAI's `images.generate`. Extensions: label (name or number of a class), seed (-1: random), steps, guidance (of
    every stage that has it), negative_prompt, seconds (for the networks: fewer steps, where steps are not given), map (as of a
    job) and settings (which take precedence over these). background, quality, style, moderation and user have no effect; others
    are refused."""

    prompt: str
    model: Name | None = None
    n: Annotated[int, Field(ge=1, le=10), Digits()] | None = None
    size: Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png", "webp", "jpeg"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100), Digits()] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3), Digits()] | None = None
    label: int | Name | None = None
    seed: Annotated[int, Field(ge=-1, le=MAX_SEED), Digits()] | None = None
    steps: Annotated[int, Field(ge=1), Digits()] | None = None
    guidance: Annotated[float, Field(allow_inf_nan=False)] | None = None
    negative_prompt: str | None = None
    seconds: Seconds | None = None
    map: str | None = None
    settings: Settings = {}
    background: Literal["auto", "opaque"] | None = None
    quality: Name | None = None
    style: Name | None = None
    moderation: Name | None = None
    user: Name | None = None


def job_request(body: JobBody, cascade: Cascade, limits: Limits, speeds: Speeds = measured) -> Plan:
    """The plan of a native request. speeds: asked if the body has `seconds`. Raises ValueError or Refused, naming the mistake, the
    field and what is allowed."""
    first, low_res, settings = "", None, body.settings
    check_prompts(body.prompts, limits)
    check_prompts([body.negative_prompt], limits, "negative_prompt")
    check_prompts([composed.text for composed in body.composed], limits, "composed")
    check_count(body.described * body.num, limits)
    check_scales(body.guidance, body.settings)
    source = None
    if body.paints_over:
        links = [link for link in cascade.links if link.name in cut(cascade.names, "", body.until, "request")]
        source, settings = painted_over(body, cascade, links, limits), with_strength(settings, links, body.strength)
    elif body.image is not None:
        first, low_res = upload(body.image, cascade, limits, fit=body.fit, last=body.until)
        later = cascade.names[cascade.names.index(first) :]
        if body.until and body.until in cascade.names and body.until not in later:
            raise ValueError(f"until: the picture enters at stage {first}; allowed are {', '.join(later)}")
        settings = agreeing(settings, cascade.links, first)
    request = Request(
        prompts=tuple(body.prompts),
        labels=cascade.conditions.numbers([str(label) for label in body.labels], "labels:"),
        num=body.num,
        seed=seed_of(body.seed),
        low_res=low_res,
        size=(body.size[1], body.size[0]) if body.size else None,
        settings=settings_within(settings, cascade, first, body.until),
        first=first,
        last=body.until,
        batch=batch_of(body.described * body.num),
        negative=(body.negative_prompt,) if body.negative_prompt else (),
        composed=(tuple((each.text, float(each.weight)) for each in body.composed),) if body.composed else (),
        guidance={name: tuple(map(float, scales)) for name, scales in body.guidance.items()},
        same_noise=body.same_noise,
        source=source,
        seconds=body.seconds,
        maps=None if body.map is None else map_of(body.map, cascade.conditions, limits),
        uncertainty=body.uncertainty,
    )
    plan = planned(request, settings, cascade, limits, speeds)
    check_proportions(plan.request.maps, plan.sizes[-1], "map")
    return plan


def painted_over(body: JobBody, cascade: Cascade, links: Sequence[Link], limits: Limits) -> Source:
    """The source of a body that paints over its image. Raises ValueError, Refused."""
    if body.image is None:
        given = next(name for name in ("mask", "strength", "invert", "invert_label") if getattr(body, name) is not None)
        raise ValueError(f"{given}: no image that would be painted over; send one")
    shown = None
    if body.invert is not None or body.invert_label is not None:
        check_prompts([body.invert or ""], limits, "invert")
        named = [] if body.invert_label is None else [str(body.invert_label)]
        shown = ((body.invert,) if body.invert else (), cascade.conditions.numbers(named, "invert_label:"))
    return source_from(body.image, body.mask, links, limits, fit=body.fit, shown=shown)


def images_request(body: ImagesBody, cascade: Cascade, limits: Limits, speeds: Speeds = measured) -> Plan:
    """The plan of a request to OpenAI's route. Raises Refused with the field at fault."""
    with mistakes("steps"):
        check_steps(with_settings(cascade.links, images_settings(body, cascade, "steps")), limits)
    with mistakes("guidance"):
        if body.guidance is not None and not any(link.is_guidable for link in cascade.links):
            raise ValueError("guidance: this cascade was trained without text or classes; leave it out")
        with_settings(cascade.links, images_settings(body, cascade, "guidance"))
    with mistakes("settings"):
        settings = images_settings(body, cascade, "steps", "guidance", "settings")
        check_numbers(settings)
        check_steps(with_settings(cascade.links, settings), limits)
    with mistakes("prompt"):
        check_prompts([body.prompt], limits)
        cascade.conditions.check(Request(prompts=(body.prompt,)))
    labels: list[int | Name] = [] if body.label is None else [body.label]
    with mistakes("label"):
        cascade.conditions.check(Request(labels=cascade.conditions.numbers([str(label) for label in labels], "label")))
    negative = body.negative_prompt or ""
    with mistakes("negative_prompt"):
        check_prompts([negative], limits, "negative_prompt")
        asked = Request(prompts=(body.prompt,), negative=(negative,), settings=settings)
        if negative:
            cascade.resolve(asked)
    with mistakes("n"):
        check_count(body.n or 1, limits)
    with mistakes("map"):
        if body.map is not None:
            map_of(body.map, cascade.conditions, limits)
    with mistakes("size"):
        width, _, height = (body.size or "auto").partition("x")
        size = [int(width), int(height)] if height else None
        seed = None if body.seed == -1 else body.seed
        job = JobBody(
            prompts=[body.prompt], labels=labels, num=body.n or 1, seed=seed, size=size, settings=settings,
            negative_prompt=negative, map=body.map,
        )  # fmt: skip
        plan = job_request(job, cascade, limits)
    if body.seconds is None:
        return plan
    with mistakes("seconds"):
        return within(replace(plan.request, seconds=body.seconds), plan, cascade, speeds)


def images_settings(body: ImagesBody, cascade: Cascade, *fields: str) -> Settings:
    """Settings by stage that result from these fields of a body."""
    settings: Settings = dict(body.settings) if "settings" in fields else {}
    for link in cascade.links:
        values: dict[Name, int | float | Name | list[float]] = {}
        if "steps" in fields and body.steps is not None:
            values["num_steps"] = body.steps
        if "guidance" in fields and body.guidance is not None and link.is_guidable:
            values["guidance_scale"] = body.guidance
        settings[link.name] = values | settings.get(link.name, {})
    return {name: values for name, values in settings.items() if values or name in body.settings}


def settings_within(settings: Settings, cascade: Cascade, first: str, last: str) -> Settings:
    """Settings of the stages in use; those of later stages are for a refinement."""
    check_numbers(settings)
    names = cut(cascade.names, first, last, "request")
    return {name: values for name, values in settings.items() if name in names}


def check_numbers(settings: Settings) -> None:
    """Raise ValueError for a text where a number belongs."""
    for name, values in settings.items():
        for key, value in values.items():
            if isinstance(value, str) and key not in WORDS:
                raise ValueError(f"settings of stage {name}: {key}: {value!r} is a text; send a number")


def check_scales(guidance: Collection[str], settings: Settings) -> None:
    """Raise ValueError for a guidance_scale of a stage in `guidance`, for which each description has one."""
    for name in guidance:
        if "guidance_scale" in settings.get(name, {}):
            raise ValueError(
                f"guidance: it has a scale of stage {name} for each description, and settings have a guidance_scale; leave one of "
                "them out"
            )


def seed_of(given: int | None) -> int:
    """The given seed, or a random one: leaving it out must not repeat pictures."""
    return secrets.randbelow(2**31) if given is None else given


def batch_of(num: int) -> int:
    """Images of a chunk: few, since chunks of different requests share calls and are served by arrival."""
    return min(num, CHUNK)


def check_prompts(prompts: Sequence[str], limits: Limits, field: str = "prompts") -> None:
    """Raise ValueError for a prompt that is too long. field: where it was given."""
    for prompt in prompts:
        if len(prompt) > limits.prompt_chars:
            raise ValueError(f"{field}: {len(prompt)} characters; at most {limits.prompt_chars} are allowed")


def check_count(num: int, limits: Limits) -> None:
    """Raise ValueError for too many images."""
    if num > limits.images:
        raise ValueError(f"num: {num} images in one job; at most {limits.images} are allowed, send several jobs")


def check_steps(links: Sequence[Link], limits: Limits) -> None:
    """Raise ValueError for a stage with too many steps."""
    for link in links:
        if link.settings.num_steps > limits.steps:
            raise ValueError(
                f"settings of stage {link.name}: num_steps {link.settings.num_steps}; at most {limits.steps} are allowed"
            )


def planned(request: Request, settings: Settings, cascade: Cascade, limits: Limits, speeds: Speeds = measured) -> Plan:
    """The resolved request, within the limits. settings: all that were given, also of later stages. speeds: asked if it has
    `seconds`. Raises ValueError."""
    check_size(request, cascade, limits)
    plan = cascade.resolve(replace(request, seconds=None), others=settings)
    check_steps(plan.links, limits)
    return plan if request.seconds is None else within(request, plan, cascade, speeds)


def within(request: Request, plan: Plan, cascade: Cascade, speeds: Speeds) -> Plan:
    """The request with the steps that its `seconds` allow. plan: its own without them. Raises ValueError."""
    return cascade.resolve(request, others=plan.settings, speeds=speeds(plan))


def check_size(request: Request, cascade: Cascade, limits: Limits) -> None:
    """Raise ValueError if the result has too long a side, or all images together too many pixels."""
    names = cut(cascade.names, request.first, request.last, "request")
    last = cascade.links[cascade.names.index(names[-1])].contract
    side = last.resolution
    h, w = request.size or (side, side)
    if request.low_res is not None:
        low_res = cascade.links[cascade.names.index(names[0])].contract.low_res or side
        h, w = (part * side // low_res for part in request.low_res.shape[-2:])
    if request.source is not None and request.low_res is None and not request.source.stage:
        h, w = request.source.size
    if max(h, w) > limits.scale * side:
        subject = "size" if request.low_res is None else "image: it would become"
        raise ValueError(f"{subject} {w}x{h} px; at most {limits.scale * side} px a side are allowed")
    if len(request.index) * h * w > limits.images * side * side:
        raise ValueError(
            f"size: {len(request.index)} images of {w}x{h} px; together they may have {limits.images * side * side:,} pixels"
        )


def upload(text: str, cascade: Cascade, limits: Limits, *, fit: bool, last: str) -> tuple[str, Tensor]:
    """The stage that a picture in base64 enters, and the picture as that stage takes it, uint8 (1, c, h, w). Raises
    ValueError, Refused."""
    content = unpack(text)
    try:
        h, w = image_size(content, FORMATS)
        if h * w > limits.upload_pixels:
            raise Refused(413, "too_many_pixels", f"image: {w}x{h} px; at most {limits.upload_pixels:,} pixels")
        stages = {link.contract.low_res: link.name for link in cascade.links if link.contract.low_res}
        if not stages:
            raise ValueError("this cascade has no super-resolution stage")
        name = choose_start(stages, (h, w), fit=fit, what=f"{w}x{h} px")
        link = cascade.links[cascade.names.index(name)]
        if fit and max(h, w) > limits.scale * min(h, w):
            raise ValueError(f"{w}x{h} px; at most {limits.scale} times as long as wide")
        if not fit:
            check_enlarged((h, w), link, cascade, limits, last)
        pixels = torch.tensor(to_pixels(decode_image(content, alpha=link.contract.channels == 4)))[None]
    except ValueError as error:
        raise ValueError(f"image: {error}") from None
    if not fit:
        return name, pixels
    assert link.contract.low_res is not None
    h, w = pixels.shape[-2:]  # upright
    return name, fitted(pixels, fitted_size((h, w), link.contract.low_res, cascade.low_res_multiple(name)))


def check_enlarged(size: tuple[int, int], link: Link, cascade: Cascade, limits: Limits, last: str) -> None:
    """Raise ValueError if the result would be too large; called before the picture is decoded."""
    end = cascade.links[cascade.names.index(last) if last in cascade.names else -1].contract.resolution
    assert link.contract.low_res
    factor, most = end // link.contract.low_res, limits.scale * end
    if max(size) * factor > most:
        h, w = size
        raise ValueError(
            f"{w}x{h} px would become {w * factor}x{h * factor} px; at most {most} px a side are allowed; send fit: true to "
            "have it shrunk first"
        )


def as_stored(plan: Plan) -> dict[str, Any]:
    """A request as JSON values, without pictures but with all settings given: a refinement may use those of later stages."""
    request = plan.request
    return {
        "prompts": list(request.prompts), "labels": list(request.labels), "num": request.num, "seed": request.seed,
        "size": list(request.size or ()), "settings": plan.settings,
        **({"source": request.source.stage or plan.names[-1]} if request.source else {}),
        **({"map": sha256(request.maps)} if request.maps is not None else {}),
        "first": request.first, "last": request.last, "index": list(request.index),
        "stages": {name: min(size) for name, size in zip(plan.names, plan.sizes, strict=True)}, **guidance_as_stored(request),
    }  # fmt: skip


def guidance_as_stored(request: Request) -> dict[str, Any]:
    """What a request says about guidance, as JSON values; {} if it says nothing."""
    said: dict[str, Any] = {
        "negative": list(request.negative), "composed": [[list(each) for each in texts] for texts in request.composed],
        "guidance": {name: list(scales) for name, scales in request.guidance.items()}, "same_noise": request.same_noise,
    }  # fmt: skip
    return {name: value for name, value in said.items() if value}


def guidance_from(stored: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Request` that `guidance_as_stored` kept."""
    return {
        "negative": tuple(stored.get("negative", ())),
        "composed": composed_of(stored.get("composed", ())),
        "guidance": {name: tuple(scales) for name, scales in stored.get("guidance", {}).items()},
        "same_noise": stored.get("same_noise", False),
    }
