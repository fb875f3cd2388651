"""Files of weights: which are believed, and that nothing in them runs."""

import os

import pytest
import torch
from safetensors.torch import save_file

from cascade.judge.weights import fill, load_weights
from data.files import file_sha256


class Runs:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def saved(content, path):
    torch.save(content, path)
    return path, {file_sha256(path)}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_the_right_hash_is_read(tmp_path, suffix):
    tensors, path = {"a": torch.arange(3.0)}, tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(tensors, path)
    found = load_weights(path, {file_sha256(path)})
    assert torch.equal(found.tensors["a"], tensors["a"])
    assert found.sha256 == file_sha256(path)


def test_another_file_is_refused_and_its_hash_is_told(tmp_path):
    path, (own,) = saved({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"if you trust it: --sha256 {own}"):
        load_weights(path, {"0" * 64})


def test_code_in_a_trusted_file_does_not_run(tmp_path):
    path, known = saved({"a": Runs(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="no weights that can be read without running code"):
        load_weights(path, known)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds no tensors by name"),
        ({"a": {"b": torch.zeros(1)}}, "holds no tensors by name"),
        ({}, "holds no tensors by name"),
        ({"a": torch.tensor([0.0, float("nan")])}, "a has NaN or inf"),
    ],
)
def test_what_is_no_state_dict_is_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_weights(*saved(content, tmp_path / "weights.pth"))


def test_damage_is_one_line(tmp_path):
    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"\x80 no weights")
        with pytest.raises(ValueError, match="no weights that can be read"):
            load_weights(tmp_path / name, {file_sha256(tmp_path / name)})
    with pytest.raises(ValueError, match="is no file"):
        load_weights(tmp_path / "nothing.pth", set())


def test_weights_of_another_network_are_refused():
    with torch.device("meta"):
        network = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="here: lacks bias"):
        fill(network, {"weight": torch.zeros(3, 2)}, "here")
    with pytest.raises(ValueError, match=r"here: weight is \(2, 3\); \(3, 2\) is needed"):
        fill(network, {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, "here")
