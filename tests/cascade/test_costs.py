"""The printed plan: the stage asked for, the whole cascade, mistakes in one line."""

import re

import pytest
import torch

from cascade.config import load_config
from cascade.train.costs import print_costs, random_batch
from stages.tools.cost import cost_of


def test_the_table_shows_the_stage_asked_and_the_whole_cascade(capsys):
    config = load_config("emoji")
    print_costs(config, "sr_64")
    text = capsys.readouterr().out
    assert text.startswith("emoji / sr_64\n")
    plans = [cost_of(stage) for stage in config.stages.values()]
    assert f" {plans[1].parameters / 1e6:.2f} M" in next(line for line in text.splitlines() if "parameters" in line)
    assert f"cascade of 3: {sum(p.parameters for p in plans) / 1e6:.1f} M parameters" in text
    assert "FLOP" in text
    assert "estimate" in text


def test_an_unknown_stage_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"no stage 'sr_65'.*did you mean sr_64\?"):
        print_costs(load_config("emoji"), "sr_65")


def row(text: str, start: str) -> list[float]:
    """The numbers of the first line that starts so."""
    line = next(line for line in text.splitlines() if line.strip().startswith(start))
    return [float(word) for word in line.strip().removeprefix(start).split()]


def test_memory_by_zero_stage_is_the_plan_s(capsys):
    config = load_config("text_1024")
    print_costs(config, "base_64", world=8)
    text = capsys.readouterr().out
    plan = cost_of(config.stages["base_64"])
    assert "memory of each of 8 devices" in text
    for zero in range(4):
        assert row(text, f"ZeRO {zero} ")[-2] == pytest.approx(plan.memory(zero=zero, world=8).device / 1e9, abs=0.006)
    host = plan.memory(zero=2, world=8, offload=True).host / 1e9
    assert row(text, "ZeRO 2 offload")[-1] == pytest.approx(host, abs=0.006)


def test_the_micro_batch_is_a_process_s_share(capsys):
    for world, micro in ((1, 64), (4, 16)):
        print_costs(load_config("emoji", ["stages.base_16.train.batch=64"]), "base_16", world=world)
        assert f"micro-batch {micro}," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("world", "told"),
    [
        (0, "--world 0: at least one process"),
        (3, r"train\.batch 64 cannot be shared by 3 processes; set train\.batch=72, or start 2"),
        (128, r"train\.batch 64 cannot be shared by 128 processes; set train\.batch=128, or start 64"),
    ],
)
def test_a_world_that_does_not_divide_the_batch_is_refused(world, told):
    with pytest.raises(ValueError, match=told):
        print_costs(load_config("emoji", ["stages.base_16.train.batch=64"]), "base_16", world=world)


def test_a_measurement_says_what_where_and_how_long_the_run_takes(capsys):
    """Days by hand from the rate that is printed; a CPU has no MFU."""
    config = load_config("emoji_tiny", ["stages.sr_64.train.micro_batch=2"])
    print_costs(config, "sr_64", world=2, measure=True, device=torch.device("cpu"))
    text = capsys.readouterr().out
    found = re.search(r"measured +([\d.e+]+) img/s +median of 3 updates of 2 random pictures, eager, on CPU", text)
    assert found
    hours = config.stages["sr_64"].train.images / (2 * float(found[1])) / 3600
    said = re.search(r"whole run +([\d.]+) (hours|min) +30.0 k images on 2 such devices", text)
    assert said
    assert float(said[1]) * {"hours": 1, "min": 1 / 60}[said[2]] == pytest.approx(hours, rel=0.05, abs=0.05)
    assert "MFU" not in text


@pytest.mark.parametrize("stage", ["base_32", "sr_256"])
def test_random_pictures_have_the_conditions_of_the_stage(stage):
    config = load_config("imagenet_256").stages[stage]
    batch = random_batch(config, 3)
    assert batch.image.shape == (3, 3, config.resolution, config.resolution)
    label = batch.cond.value("label")
    assert 0 <= int(label.min()) <= int(label.max()) < 1000
