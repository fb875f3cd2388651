"""Pictures of cascades for a vote: the same prompts and seed for each, by the machinery of sample.py, into a folder a cascade."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from cascade.engine.devices import choose_device
from cascade.output.destinations import output_for
from cascade.output.saving import save_all
from cascade.pipeline import Cascade
from cascade.request import Request

DEFAULT_NUM = 40  # pictures, where neither --num nor a list of prompts says it


def sample_side(source: str, folder: Path, *, prompts: Sequence[str], num: int, seed: int, device: str) -> Path:
    """Sample a cascade into `folder`: a picture of each prompt, or `num` without prompts (of classes: in turn). What is there
    already is not sampled again. Raises ValueError."""
    model = Cascade.load(Path(source), device=choose_device(device))
    labels: tuple[int, ...] = ()
    if not model.conditions.text and model.conditions.num_classes:
        prompts = ()
        labels = tuple(i % model.conditions.num_classes for i in range(num or DEFAULT_NUM))
    each = 1 if prompts or labels else num or DEFAULT_NUM
    request = Request(num=each, seed=seed, prompts=tuple(prompts), labels=labels)
    plan = model.resolve(request)
    output = output_for(f"{folder}/", stages=False)
    output.check_names(plan)
    with redirect_stdout(sys.stderr):  # its files' names are not what this command prints
        save_all(model, [(output, lambda: plan)])
    return folder
