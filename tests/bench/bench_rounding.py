"""How much the number of rows of a network call, and the company in it, change a picture, for each precision.

    python tests/bench/bench_rounding.py
    python tests/bench/bench_rounding.py runs/emoji --precision bf16

The same images of the same seed are made all at once (the reference), in smaller batches, and by an engine in company of other
requests with other settings. Told for each change of the settings: the largest difference of two levels of uint8, and the share of
values that differ at all.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from machine import describe

from cascade.engine.engine import Engine
from cascade.events import StageFinished
from cascade.pipeline import Cascade
from cascade.request import Request
from data.cli import run

SHIPPED = Path(__file__).parents[2] / "cascade" / "shipped" / "emoji_tiny"
PROMPTS = ("red heart", "a grinning face with smiling eyes", "slice of pizza")
BATCHES = (1, 4, 7)
SETTINGS = [
    {},
    {"sampler": "heun"},
    {"num_steps": 4},
    {"num_steps": 50},
    {"guidance_scale": 1.0},
    {"guidance_scale": 15.0},
    {"sampler": "heun", "guidance_scale": 15.0, "num_steps": 30},
    {"aug_sigma": 0.4},
]


def main(
    cascade: Annotated[Path, typer.Argument(help="folder of a cascade that takes prompts")] = SHIPPED,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, bf16; by default both")] = None,
    num: Annotated[int, typer.Option(help="images of each of three prompts")] = 4,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Rounding by rows and by company."""
    print(describe())
    for name in precision or ["fp32", "bf16"]:
        model = Cascade.load(cascade, precision=name, device=device)
        worst: dict[str, int] = {"batch": 0, "company": 0}
        for changes in SETTINGS:
            request = Request(prompts=PROMPTS, num=num, seed=3, batch=len(PROMPTS) * num, settings=told(model, changes))
            reference = sampled(model, request)
            smaller = [sampled(model, replace(request, batch=batch)) for batch in BATCHES]
            found = {"batch": torch.stack(smaller) - reference, "company": in_company(model, request) - reference}
            line = f"{name} {changes or 'as it ships'}:"
            for what, apart in found.items():
                levels, share = int(apart.abs().max()), float((apart != 0).float().mean())
                worst[what] = max(worst[what], levels)
                line += f" {what} up to {levels} levels, {share:.2%} of values;"
            print(line, flush=True)
        print(f"{name}: at most {worst['batch']} levels by batch, {worst['company']} by company", flush=True)


def told(model: Cascade, changes: dict) -> dict[str, dict]:
    """For every stage that they concern."""
    base = {key: value for key, value in changes.items() if key != "aug_sigma"}
    found = {}
    for link in model.links:
        own = dict(changes if link.contract.low_res else base)
        if not link.is_guidable or (link.contract.low_res and link.settings.guidance_scale == 1):
            own.pop("guidance_scale", None)
        if link.contract.low_res:
            own.pop("sigma_max", None)
            own["aug_sigma"] = min(own.get("aug_sigma", link.settings.aug_sigma), link.contract.max_aug_sigma)
        found[link.name] = own
    return found


def sampled(model: Cascade, request: Request) -> torch.Tensor:
    """int32 (num, c, h, w), of the last stage."""
    return torch.cat([e.images for e in model.sample(request) if isinstance(e, StageFinished) and e.last]).int()


def in_company(model: Cascade, request: Request) -> torch.Tensor:
    """The same in chunks of two, beside requests with other prompts, samplers and scales that share its calls."""
    engine = Engine(model, batch=dict.fromkeys(model.names, 16), max_waiting=1024)
    found: dict[int, torch.Tensor] = {}

    def listen(event: object) -> None:
        if isinstance(event, StageFinished) and event.last:
            found.update(zip(event.index, event.images, strict=True))

    ticket = engine.submit(replace(request, batch=2), listen)
    for seed, changes in enumerate(({}, {"sampler": "heun", "guidance_scale": 3.0}, {"num_steps": 7})):
        other = Request(prompts=("green apple",), num=3, seed=seed, batch=3, settings=told(model, changes))
        engine.submit(other, lambda event: None)
    while not ticket.done:
        engine.tick()
    return torch.stack([found[k] for k in range(len(found))]).int()


if __name__ == "__main__":
    run(main)
