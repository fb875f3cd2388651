"""The plan against counts by hand, against real tensors and against files; and that huge stages cost nothing to plan."""

import pytest
import torch
from safetensors.torch import save_file

from cascade.config import load_config, parse_config
from cascade.plan import count_pass, plan_stage, print_plan
from data.batch import Cond
from stages.build import build_stage
from stages.config import BaseConfig, SuperResConfig, TextConfig

SMALL = {"widths": (8, 16), "blocks": (1, 1), "emb_dim": 4, "head_dim": 8}


def base(net=None, **keys) -> BaseConfig:
    return BaseConfig(resolution=8, net=SMALL | (net or {}), **keys)


def conv(num_in: int, num_out: int, pixels: int, kernel: int = 3) -> int:
    """FLOPs by hand: two for each weight at each pixel."""
    return 2 * num_in * num_out * kernel**2 * pixels


def linear(num_in: int, num_out: int, tokens: int = 1) -> int:
    return 2 * num_in * num_out * tokens


def block(width: int, pixels: int) -> int:
    return linear(4, width) + 2 * conv(width, width, pixels)


# 8 x 8 pixels at the fine level, 4 x 4 at the coarse one; encoder, middle (coarse) and decoder have one block a level
UNET = (
    linear(4, 4)
    + conv(3 + 1, 8, 64)
    + 2 * block(8, 64)
    + 3 * block(16, 16)
    + conv(8, 16, 16, kernel=1)
    + conv(16, 8, 16, kernel=1)
    + conv(8, 3, 64)
)
SELF_ATTENTION = linear(16, 16, 16) + linear(16, 32, 16) + linear(16, 16, 16) + 2 * (2 * 16 * 16 * 16)
CROSS_ATTENTION = linear(16, 16, 16) + linear(6, 32, 5 + 1) + linear(16, 16, 16) + 2 * (2 * 16 * (5 + 1) * 16)


@pytest.mark.parametrize(
    ("config", "flops"),
    [
        (base(), UNET),
        (base(cond={"num_classes": 9}), UNET + linear(9 + 1, 4)),
        (base({"self_attention": (1,)}), UNET + 3 * SELF_ATTENTION),
        (
            base({"cross_attention": (1,)}, cond={"text": TextConfig(encoder="none", dim=6, tokens=5)}),
            UNET + 3 * CROSS_ATTENTION + linear(6, 4),
        ),
    ],
    ids=["plain", "classes", "self_attention", "cross_attention"],
)
def test_flops_are_those_counted_by_hand(config, flops):
    assert plan_stage(config).forward_flops == flops


def test_super_resolution_costs_its_extra_inputs():
    plan = plan_stage(SuperResConfig(low_res=4, resolution=8, net=SMALL))
    assert plan.forward_flops == UNET + conv(3, 8, 64) + linear(4, 4)  # low_res channels; the embedding of aug_sigma


@pytest.mark.parametrize("stage", ["base_16", "sr_64", "sr_128"])
def test_parameters_are_those_of_the_built_stage(stage):
    config = load_config("emoji").stages[stage]
    assert plan_stage(config).parameters == sum(p.numel() for p in build_stage(config).parameters())


def test_training_is_three_forwards_at_the_crop_and_sampling_sees_the_whole_picture():
    keys = {"low_res": 16, "resolution": 64, "net": SMALL}
    whole, cropped = plan_stage(SuperResConfig(**keys)), plan_stage(SuperResConfig(**keys, crop=16))
    assert (whole.train_size, cropped.train_size) == (64, 16)
    assert whole.full_flops == whole.forward_flops == cropped.full_flops
    embedding = 2 * linear(4, 4) + 2 * linear(4, 8) + 3 * linear(4, 16)
    assert whole.forward_flops - embedding == 16 * (cropped.forward_flops - embedding)
    assert cropped.train_flops == 3 * cropped.forward_flops


@pytest.mark.parametrize(
    ("sample", "nfe", "rows"),
    [
        ({"num_steps": 5}, 5, 5),
        ({"num_steps": 5, "sampler": "heun"}, 9, 9),
        ({"num_steps": 5, "guidance_scale": 2.0}, 5, 10),
        # the levels are 3, 2, 1: rho 1 makes them even
        (
            {
                "num_steps": 3,
                "sigma_max": 3,
                "sigma_min": 1,
                "rho": 1,
                "guidance_scale": 2,
                "guidance_interval": [1.5, 2.5],
            },
            3,
            4,
        ),
    ],
)
def test_sampling_counts_calls_and_guided_rows(sample, nfe, rows):
    plan = plan_stage(base(sample=sample))
    assert (plan.nfe, plan.rows) == (nfe, rows)
    assert plan.sample_flops == rows * plan.full_flops


def test_memory_of_weights_is_counted_in_float32(tmp_path):
    config = base(train={"ema": [100, 200, 300]})
    plan = plan_stage(config)
    assert plan.weight_bytes == 4 * plan.parameters
    assert plan.adam_bytes == 8 * plan.parameters
    assert plan.ema_bytes == 3 * plan.bundle_bytes
    assert plan.train_bytes == 16 * plan.parameters + plan.ema_bytes + plan.activation_bytes
    path = tmp_path / "ema.safetensors"
    save_file(build_stage(config).state_dict(), path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == header + plan.bundle_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_what_autograd_keeps_of_real_tensors(precision):
    config = base(train={"batch": 6, "streams": 1, "micro_batch": 3, "precision": precision})
    stage = build_stage(config)
    stage.set_precision(precision)
    own = {p.data_ptr() for p in stage.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = stage.denoise(torch.randn(3, 3, 8, 8), torch.ones(3), Cond.empty(3)).sum()
    plan = plan_stage(config)
    assert plan.activation_bytes == sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert plan.micro_batch == 3
    del loss


def test_activations_of_fused_attention_grow_with_pixels_not_with_their_square():
    config = base({"self_attention": (0,)})
    with torch.device("meta"):
        stage, plain = build_stage(config), build_stage(base())

    def attention(size: int) -> int:
        return count_pass(stage, size, 2)[1] - count_pass(plain, size, 2)[1]

    weights = attention(8) - (attention(16) - attention(8)) / 3  # what does not grow with the picture
    assert attention(32) - weights == pytest.approx(16 * (attention(8) - weights), rel=1e-3)


def test_the_table_shows_the_stage_asked_and_the_whole_cascade(capsys):
    config = load_config("emoji")
    print_plan(config, "sr_64")
    text = capsys.readouterr().out
    assert text.startswith("emoji / sr_64\n")
    plans = [plan_stage(stage) for stage in config.stages.values()]
    assert f" {plans[1].parameters / 1e6:.2f} M" in next(line for line in text.splitlines() if "parameters" in line)
    assert f"cascade of 3: {sum(p.parameters for p in plans) / 1e6:.1f} M parameters" in text
    assert "FLOP" in text
    assert "estimate" in text


def test_an_unknown_stage_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"no stage 'sr_65'.*did you mean sr_64\?"):
        print_plan(load_config("emoji"), "sr_65")


def test_hundred_billion_parameters_are_planned_without_memory():
    net = {"widths": [20480], "blocks": [6]}
    config = parse_config({"name": "huge", "stages": {"base": {"kind": "base", "resolution": 8, "net": net}}}, "here")
    plan = plan_stage(config.stages["base"])
    assert plan.parameters > 90e9  # 0.4 TB, if it were allocated
