"""Costs of a stage against counts by hand, real tensors and files; and that huge stages cost nothing to plan."""

import gc

import pytest
import torch
from safetensors.torch import save_file

from cascade.config import load_config, parse_config
from data.batch import Cond
from stages.build import build_stage
from stages.config import BaseConfig, SuperResConfig, TextConfig
from stages.stage import Stage
from stages.tools.cost import BUCKET, cost_of, mfu, named_peak, peak_flops
from stages.tools.counting import count_pass, size_of

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
    assert cost_of(config).forward_flops == flops


def test_super_resolution_costs_its_extra_inputs():
    plan = cost_of(SuperResConfig(low_res=4, resolution=8, net=SMALL))
    assert plan.forward_flops == UNET + conv(3, 8, 64) + linear(4, 4)  # low_res channels; the embedding of aug_sigma


@pytest.mark.parametrize("stage", ["base_16", "sr_64", "sr_128"])
def test_parameters_are_those_of_the_built_stage(stage):
    config = load_config("emoji").stages[stage]
    assert cost_of(config).parameters == sum(p.numel() for p in build_stage(config).parameters())


def test_a_spectrum_that_is_still_to_be_measured_costs_as_a_measured_one():
    """Known before any data are looked at: train.py --dry-run of such a stage was refused."""
    keys = {"low_res": 16, "resolution": 64, "crop": 32, "net": SMALL}
    white = {"kind": "spectral", "std": ((1.0,),) * 3, "error": ((0.2,),) * 3}
    assert cost_of(SuperResConfig(**keys, parametrisation={"kind": "spectral"})) == cost_of(
        SuperResConfig(**keys, parametrisation=white)
    )


def test_training_is_three_forwards_at_the_crop_and_sampling_sees_the_whole_picture():
    keys = {"low_res": 16, "resolution": 64, "net": SMALL}
    whole, cropped = cost_of(SuperResConfig(**keys)), cost_of(SuperResConfig(**keys, crop=16))
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
    plan = cost_of(base(sample=sample))
    assert (plan.nfe, plan.rows) == (nfe, rows)
    assert plan.sample_flops == rows * plan.full_flops


def test_memory_of_weights_is_counted_in_float32(tmp_path):
    config = base(train={"ema": [100, 200, 300]})
    plan = cost_of(config)
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
        loss = stage.denoise(torch.randn(3, 3, 8, 8), torch.ones(3), Cond.empty(3)).x0_hat.sum()
    plan = cost_of(config)
    assert plan.activation_bytes == sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert plan.micro_batch == 3
    del loss


def test_activations_of_fused_attention_grow_with_pixels_not_with_their_square():
    config = base({"self_attention": (0,)})
    with torch.device("meta"):
        stage, plain = build_stage(config), build_stage(base())

    def attention(size: int) -> int:
        return count_pass(stage, size, 2)[1].bytes - count_pass(plain, size, 2)[1].bytes

    weights = attention(8) - (attention(16) - attention(8)) / 3  # what does not grow with the picture
    assert attention(32) - weights == pytest.approx(16 * (attention(8) - weights), rel=1e-3)


def test_hundred_billion_parameters_are_planned_without_memory():
    net = {"widths": [20480], "blocks": [6]}
    config = parse_config({"name": "huge", "stages": {"base": {"kind": "base", "resolution": 8, "net": net}}}, "here")
    plan = cost_of(config.stages["base"])
    assert plan.parameters > 90e9  # 0.4 TB, if it were allocated


def held_bytes(stage: Stage, batch: int) -> int:
    """Bytes alive after a real forward pass, parameters left out: what Python objects and autograd hold, found by the collector.
    Not counted: the states of random generators, uint8 in host memory, one for each checkpointed block."""
    own = {p.untyped_storage().data_ptr() for p in stage.parameters()}
    inputs = torch.randn(batch, 3, 8, 8), torch.ones(batch), Cond.empty(batch)

    def alive() -> dict[int, torch.UntypedStorage]:
        gc.collect()
        tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.dtype != torch.uint8]
        return {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}

    before = alive().keys() | own
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.detach(), lambda tensor: tensor):
        x0_hat = stage.denoise(*inputs).x0_hat
    return sum(s.nbytes() for key, s in alive().items() if key not in before | {x0_hat.data_ptr()})


def test_checkpointed_activations_are_what_a_real_pass_holds_and_one_block():
    """Eight equal blocks on one level: what stays is the blocks' inputs; the largest block comes on top in the backward pass."""
    net = SMALL | {"widths": (8,), "blocks": (4,)}
    config = BaseConfig(resolution=8, net=net, train={"batch": 8, "streams": 1, "precision": "fp32"})
    stage = build_stage(config)
    stage.net.checkpointed = True
    held = held_bytes(stage, 8)
    plan = cost_of(
        config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_activations": True})})
    )
    with torch.device("meta"):
        kept = count_pass(build_stage(config), 8, 8)[1]
    assert plan.activation_bytes == kept.checkpointed_bytes < 0.5 * kept.bytes
    assert held == pytest.approx(size_of(kept.outside | kept.inputs), rel=0.01)
    inside = [size_of(block) for block in kept.blocks]
    assert max(inside) / 2 < plan.activation_bytes - size_of(kept.outside | kept.inputs) <= max(inside)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GH200 480GB", None),
    ],
)
def test_the_peak_of_a_gpu_is_known_by_its_name_or_not_at_all(name, peak):
    assert named_peak(name) == peak


def test_a_cpu_has_no_peak():
    assert peak_flops(torch.device("cpu")) is None


def test_mfu_is_the_share_of_the_peak_that_the_model_needs():
    plan = cost_of(base())
    rate = 1e12 / (3 * plan.forward_flops)  # images that take 1 TFLOP of training
    assert mfu(rate, plan.train_flops, 4e12) == pytest.approx(0.25)


class TestMemory:
    """P: bytes of the weights. Against the real thing: test_memory_of_zero.py."""

    @pytest.fixture
    def plan(self):
        return cost_of(base())

    def test_one_process_without_zero(self, plan):
        memory = plan.memory()
        P = plan.weight_bytes
        assert (memory.weights, memory.gradients, memory.optimizer, memory.buffers, memory.host) == (P, P, 2 * P, 0, 0)
        assert memory.device == 4 * P + plan.ema_bytes + plan.activation_bytes == plan.train_bytes

    @pytest.mark.parametrize(
        ("zero", "weights", "gradients", "optimizer"),
        [(1, 1, 1, 3 / 4), (2, 1, 1 / 4, 3 / 4), (3, 1 / 4, 1 / 4, 2 / 4)],
    )
    def test_zero_divides_among_four(self, plan, zero, weights, gradients, optimizer):
        memory = plan.memory(zero=zero, world=4)
        shares = [part / plan.weight_bytes for part in (memory.weights, memory.gradients, memory.optimizer)]
        assert shares == pytest.approx([weights, gradients, optimizer], rel=1e-3)

    @pytest.mark.parametrize("zero", [0, 1, 2, 3])
    @pytest.mark.parametrize("world", [1, 64])
    def test_averages_and_activations_are_never_divided(self, plan, zero, world):
        memory = plan.memory(zero=zero, world=world)
        assert (memory.ema, memory.activations) == (plan.ema_bytes, plan.activation_bytes)

    @pytest.mark.parametrize("zero", [1, 2, 3])
    def test_offload_moves_the_optimizer_to_the_host(self, plan, zero):
        there, here = plan.memory(zero=zero, world=2, offload=True), plan.memory(zero=zero, world=2)
        assert there.optimizer == 0
        assert there.host >= here.optimizer
        assert there.device < here.device

    def test_zero_3_gathers_all_weights_for_the_averages(self, plan):
        assert plan.memory(zero=3, world=8).buffers >= BUCKET + plan.weight_bytes - plan.activation_bytes
