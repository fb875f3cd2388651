"""Sampling settings that a stage cannot follow, by its config alone: of other networks beside it nothing is known here.

Each is a key with the reason and what the stage can do instead. A cascade's YAML is refused for them before anything is trained, a
manifest or a request when it is resolved.
"""

from collections.abc import Iterator

from .kinds.config import StageBase
from .sample_config import UNTOLD, SampleConfig

Unfit = Iterator[tuple[str, str]]
"""Keys of settings, each with the reason and what to do."""

BY_LOW_RES = ("consistency", "consistency_sigma", "colour")
"""Settings that correct by the picture that a stage enlarges."""
PARTS = {"guidance_text": ("text", "a text"), "guidance_label": ("label", "a class")}
"""The guidance scale of one condition: its name, and in words."""


def impossible(config: StageBase, settings: SampleConfig) -> Unfit:
    """Settings that would give wrong pictures, or none."""
    size = config.cond.original_size
    if settings.options.get("variance") == "learned" and not config.learned_variance:
        yield "variance", "this network was trained without a variance; choose small or large"
    if settings.anneal_scale and "text" not in config.cond.names:
        yield "anneal_scale", "this stage was trained without text, whose features would get the noise; leave it out"
    if settings.control_scale != 1 and not config.controlnet:
        yield "control_scale", "this stage has no control net; leave it out"
    if settings.dynamic_threshold < 1 and config.space.build().bounds != (-1, 1):
        yield "dynamic_threshold", f"its space is {config.space.kind}, whose numbers are not from -1 to 1; leave it out"
    if settings.original_size is not None and not size:
        yield "original_size", "this stage was trained without it; leave it out"
    elif settings.original_size == UNTOLD and size and not size.drop:
        yield (
            "original_size",
            "this stage was always told one in training (cond.original_size.drop is 0); leave it out",
        )


def idle(config: StageBase, settings: SampleConfig) -> Unfit:
    """Settings that would change nothing."""
    if settings.guidance_scale != 1 and not config.cond.names:
        yield "guidance_scale", "this stage is trained without text or classes; leave it out"
    for key in PARTS:
        if getattr(settings, key) is not None and (reason := unguided(config, key)):
            yield key, reason
    for key in BY_LOW_RES:
        if getattr(settings, key) and config.takes is None:
            yield key, "this stage enlarges no picture to agree with; leave it out"


def unguided(config: StageBase, key: str) -> str:
    """Why a stage has no use for one of PARTS, and what it is guided by; "" if it has."""
    part, words = PARTS[key]
    if part in config.cond.names:
        return ""
    others = [words for part, words in PARTS.values() if part in config.cond.names]
    by = f", it is by {others[0]} (guidance_scale)" if others else ""
    return f"this stage is not guided by {words}{by}; leave it out"
