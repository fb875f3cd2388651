"""What is promised of pictures in other batches in fp32. (Of bf16 nothing is: bench_rounding.py measures both.)"""

from pathlib import Path

import pytest
import torch

from cascade.pipeline import Cascade
from cascade.request import Request

from .chains import finished, levels_apart

SHIPPED = Path(__file__).parents[2] / "cascade" / "shipped" / "emoji_tiny"


@pytest.fixture(scope="module")
def model():
    return Cascade.load(SHIPPED)


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ({"num_steps": 8}, 1),
        ({"sampler": "heun", "num_steps": 4}, 1),
        ({"guidance_scale": 15.0, "num_steps": 8}, 8),
    ],
)
def test_another_batch_changes_pictures_by_rounding_alone(model, settings, levels):
    """Of trained networks, for random ones say little about how errors grow; guidance multiplies them."""
    request = {"prompts": ("red heart", "slice of pizza"), "num": 2, "seed": 3, "settings": {"base_16": settings}}
    expected = finished(model.sample(Request(**request, batch=4)))
    for batch in (1, 3):
        assert levels_apart(finished(model.sample(Request(**request, batch=batch))), expected) <= levels


def test_a_prompt_has_the_same_features_in_any_company(model):
    """To the last bit: so that a picture can be made again without knowing its neighbours."""
    prompts = ("red heart", "a very long caption about a slice of pizza with olives", "cat")
    together = model.conditions.of(prompts)
    for row, prompt in enumerate(prompts):
        alone = model.conditions.of((prompt,))
        assert torch.equal(alone.value("text")[0], together.value("text")[row])
