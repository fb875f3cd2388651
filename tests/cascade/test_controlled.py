"""A control net in a cascade: in the frozen stage's place, by the manifest; without maps and at scale 0 the same pictures, even
if it had a map with every picture of its training."""

from pathlib import Path

import pytest
import torch

from cascade import Cascade, Request
from cascade.output.pictures import read_png
from sample import main
from stages.bundle import read_sidecar, save_bundle
from stages.config import SuperResConfig
from tests.calling import call

from .chains import finished, random_weights, tiny_config, write_cascade


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return write_cascade(tmp_path_factory.mktemp("plain"), tiny_config(8, 16))


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory) -> Path:
    """The same cascade with a control net, awake, as its sr_16."""
    folder = write_cascade(tmp_path_factory.mktemp("controlled"), tiny_config(8, 16))
    base = plain / "sr_16" / "bundle"
    sidecar = read_sidecar(base)
    values = sidecar.config.model_dump() | {"controlnet": {"base": str(base), "sha256": sidecar.sha256}}
    config = SuperResConfig.model_validate(values | {"cond": {"maps": {"channels": 1}, "drop": 0.0}})
    save_bundle(
        folder / "sr_16" / "bundle",
        random_weights(config, seed=1),
        config=config,
        text_encoder=None,
        provenance=sidecar.provenance,
    )
    return folder


def maps(num: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (num, 1, 24, 24), generator=generator, dtype=torch.uint8)


def test_without_maps_and_at_scale_0_it_is_the_frozen_cascade(plain, folder):
    before = finished(Cascade.load(plain).sample(Request(num=2)))
    model = Cascade.load(folder)
    assert torch.equal(finished(model.sample(Request(num=2))), before)
    off = {"sr_16": {"control_scale": 0.0}}
    assert torch.equal(finished(model.sample(Request(maps=maps(), settings=off))), before)


def test_a_map_changes_its_picture_as_much_as_the_scale_says(folder):
    model = Cascade.load(folder)
    pictures = [
        finished(model.sample(Request(maps=maps(), settings={"sr_16": {"control_scale": scale}}))).float()
        for scale in (0.0, 0.2, 1.0)
    ]
    near, far = ((pictures[k] - pictures[0]).abs().mean().item() for k in (1, 2))
    assert 0.1 < near < far
    swapped = finished(model.sample(Request(maps=maps().flip(0)))).float()
    assert (swapped - pictures[2]).abs().mean() > 0.1


def test_on_the_command_line(plain, folder, tmp_path, capsys):
    assert call(main, "--cascade", folder, "--out", tmp_path / "one.png", "--set", "sr_16.control_scale=0.5") == 0
    assert call(main, "--cascade", folder, "--out", tmp_path / "all.png", "--set", "control_scale=0.5") == 0
    assert torch.equal(read_png(tmp_path / "all.png"), read_png(tmp_path / "one.png"))
    capsys.readouterr()
    assert call(main, "--cascade", plain, "--out", tmp_path / "two.png", "--set", "sr_16.control_scale=0.5") == 2
    assert "stage sr_16: control_scale 0.5: this stage has no control net; leave it out" in capsys.readouterr().err
