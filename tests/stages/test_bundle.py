"""Bundles: what is saved is what is loaded; what is damaged or made to harm is refused in one sentence, and never executed."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from data.batch import Cond
from data.files import file_sha256
from data.resize import RESIZE_VERSION
from stages.build import build_stage
from stages.bundle import (
    SIDECAR,
    WEIGHTS,
    BundleError,
    Provenance,
    load_bundle,
    make_contract,
    read_sidecar,
    save_bundle,
)
from stages.config import CondConfig, TextConfig
from tests.stages.killing import killed_everywhere
from tests.stages.tiny import TEXT_DIM, base_config, sr_config, text_cond, text_config, unet_config, wake

CONFIGS = {
    "base": base_config(),
    "super_res": sr_config(),
    "text": base_config().model_copy(
        update={"cond": text_config(), "net": unet_config(self_attention=(1,), cross_attention=(1,))}
    ),
}


def provenance(nimg: int = 48) -> Provenance:
    return Provenance(nimg=nimg, ema=16, data="fingerprint", classes=("a", "b"), versions={"torch": torch.__version__})


def save(folder: Path, config=CONFIGS["base"], nimg: int = 48, seed: int = 0):
    """A stage with random weights, saved; the stage."""
    torch.manual_seed(seed)
    stage = wake(build_stage(config)).eval()
    save_bundle(folder, stage.state_dict(), config=config, text_encoder="encoder-1", provenance=provenance(nimg))
    return stage


@pytest.fixture
def bundle(tmp_path) -> Path:
    save(tmp_path / "bundle")
    return tmp_path / "bundle"


def restamp(bundle: Path, **changed) -> None:
    """Makes the sidecar agree with the weights, as somebody who means harm would."""
    sidecar = json.loads((bundle / SIDECAR).read_text())
    (bundle / SIDECAR).write_text(json.dumps(sidecar | {"sha256": file_sha256(bundle / WEIGHTS)} | changed))


class TestRoundTrip:
    @pytest.mark.parametrize("kind", list(CONFIGS))
    def test_equal_outputs(self, kind, tmp_path, generator):
        """Folding rounds once: 1e-5. cond, text and low_res as each kind takes them."""
        stage = save(tmp_path / "bundle", CONFIGS[kind])
        loaded = load_bundle(tmp_path / "bundle")
        x, low_res = torch.randn(2, 3, 3, 16, 16, generator=generator)
        sigma, aug_sigma = torch.tensor([0.1, 1.0, 20.0]), torch.tensor([0.0, 0.2, 0.9])
        cond = (
            text_cond(3, generator)
            if kind == "text"
            else Cond.of(torch.zeros(3, dtype=torch.bool), label=torch.arange(3))
        )
        given = cond.given(low_res=low_res, aug=aug_sigma) if kind == "super_res" else cond
        with torch.no_grad():
            expected = stage.denoise(x, sigma, given).x0_hat
        found = loaded.denoise(x, sigma, given).x0_hat
        assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert not found.requires_grad
        assert not loaded.training

    def test_it_says_all_about_itself(self, bundle):
        sidecar = read_sidecar(bundle)
        assert sidecar.config == CONFIGS["base"]
        assert sidecar.provenance == provenance()
        assert sidecar.contract == make_contract(CONFIGS["base"], "encoder-1")
        assert {path.name for path in bundle.iterdir()} == {SIDECAR, WEIGHTS}

    def test_contract(self):
        base, above = make_contract(CONFIGS["base"], None), make_contract(sr_config(), "encoder-1")
        assert (base.low_res, base.resolution, base.channels, base.max_aug_sigma) == (None, 8, 3, 0.0)
        assert (above.low_res, above.resolution, above.text_encoder, above.max_aug_sigma) == (8, 16, "encoder-1", 1.0)
        assert base.resize == RESIZE_VERSION
        assert base.value_range == (-1.0, 1.0)

    @pytest.mark.parametrize(("tokens", "packed"), [(5, 32), (49, 49)])
    def test_a_bundle_that_does_not_tell_the_length_of_captions_was_packed_as_usual(self, tokens, packed, tmp_path):
        """Older ones: with the packer's default, or with more where the network reads more."""
        text = TextConfig(encoder="stand-in", dim=TEXT_DIM, tokens=tokens)
        save(tmp_path / "old", CONFIGS["text"].model_copy(update={"cond": CondConfig(text=text)}))
        path = tmp_path / "old" / SIDECAR
        values = json.loads(path.read_text())
        assert values["contract"].pop("text_tokens") == values["config"]["cond"]["text"].pop("packed_tokens") == packed
        path.write_text(json.dumps(values))
        assert read_sidecar(tmp_path / "old").contract.text_tokens == packed

    def test_weights_are_the_unfolded_ones(self, bundle):
        """So that a bundle can be trained on."""
        torch.manual_seed(0)
        stage = wake(build_stage(CONFIGS["base"]))
        assert_close(load_file(bundle / WEIGHTS), dict(stage.state_dict()), rtol=0, atol=0)

    def test_loading_takes_nothing_from_the_global_generator(self, bundle):
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        load_bundle(bundle)
        assert torch.equal(torch.rand(1), expected)

    def test_bf16(self, bundle, generator):
        x, sigma, cond = torch.randn(2, 3, 8, 8, generator=generator), torch.ones(2), Cond.empty(2)
        exact, rough = (load_bundle(bundle, precision=p).denoise(x, sigma, cond).x0_hat for p in ("fp32", "bf16"))
        assert 0 < (exact - rough).abs().max() < 0.1
        assert rough.dtype == torch.float32


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


class TestWeights:
    """Each damage is tried as it would happen, and with a sidecar that agrees with it."""

    @pytest.mark.parametrize("kind", ["pickle", "torch"])
    @pytest.mark.parametrize("agreeing", [True, False])
    def test_a_renamed_pickle_is_not_executed(self, bundle, kind, agreeing, tmp_path):
        evil, sentinel = Evil(tmp_path / "executed"), tmp_path / "executed"
        (bundle / WEIGHTS).write_bytes(pickle.dumps(evil)) if kind == "pickle" else torch.save(evil, bundle / WEIGHTS)
        if agreeing:
            restamp(bundle)
        with pytest.raises(BundleError, match=WEIGHTS):
            load_bundle(bundle)
        assert not sentinel.exists()

    @pytest.mark.parametrize("name", ["ema.pt", "pytorch_model.bin", "ema.pkl"])
    def test_a_pickle_beside_is_not_looked_at(self, bundle, name, tmp_path):
        torch.save(Evil(tmp_path / "executed"), bundle / name)
        load_bundle(bundle)
        (bundle / WEIGHTS).unlink()
        with pytest.raises(BundleError, match="missing; copy the bundle again"):
            load_bundle(bundle)
        assert not (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[: len(content) // 2],
            lambda content: content[:6],
            lambda content: b"",
            lambda content: struct.pack("<Q", 2**63) + content[8:],
            lambda content: struct.pack("<Q", 10**8) + content[8:],
            lambda content: content.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
            lambda content: content.replace(b'"F32"', b'"F64"', 1),
            lambda content: b"\x00" * len(content),
            lambda content: content + b"more",
        ],
        ids=[
            "cut",
            "cut in header",
            "empty",
            "huge header",
            "long header",
            "overlap",
            "other dtype",
            "zeros",
            "longer",
        ],
    )
    @pytest.mark.parametrize("agreeing", [True, False])
    def test_bad_safetensors_are_refused(self, bundle, damage, agreeing):
        content = (bundle / WEIGHTS).read_bytes()
        assert damage(content) != content
        (bundle / WEIGHTS).write_bytes(damage(content))
        if agreeing:
            restamp(bundle)
        with pytest.raises(BundleError, match=f"{WEIGHTS}.*copy the bundle again") as error:
            load_bundle(bundle)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("offset", [9, -1, -1000])
    def test_a_flipped_bit_is_found(self, bundle, offset):
        content = bytearray((bundle / WEIGHTS).read_bytes())
        content[offset] ^= 4
        (bundle / WEIGHTS).write_bytes(content)
        with pytest.raises(BundleError, match=r"its sha256 is not the one in stage\.json"):
            load_bundle(bundle)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda w: w.pop("net.conv_in.weight"), "misses tensor net.conv_in.weight"),
            (lambda w: w.update({"net.more": torch.ones(1)}), "has extra tensor net.more"),
            (lambda w: w.update({"net.conv_in.weight": torch.ones(1, 2)}), r"net.conv_in.weight is \(1, 2\), \(16, 4"),
            (lambda w: w.update({"net.out_gain": torch.ones(1, dtype=torch.int64)}), "net.out_gain is int64"),
        ],
        ids=["missing", "extra", "shape", "dtype"],
    )
    def test_other_tensors_are_refused_by_name(self, bundle, change: Callable, said):
        weights = load_file(bundle / WEIGHTS)
        change(weights)
        save_file(weights, bundle / WEIGHTS)
        restamp(bundle)
        with pytest.raises(BundleError, match=said):
            load_bundle(bundle)


class TestSidecar:
    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b"[" * 100_000], ids=lambda c: str(c[:9])
    )
    def test_what_is_no_sidecar_is_refused(self, bundle, content):
        (bundle / SIDECAR).write_bytes(content)
        with pytest.raises(BundleError, match=SIDECAR) as error:
            load_bundle(bundle)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"version": 2}, "version: Input should be 1"),
            ({"more": 1}, "more: Extra inputs are not permitted"),
            ({"sha256": "../../x"}, "sha256: String should match pattern"),
            ({"config": {"kind": "base"}}, "config.resolution: Field required"),
            ({"config": {"kind": "os.system"}}, "config: Input tag 'os.system'"),
        ],
        ids=str,
    )
    def test_other_facts_are_refused_by_key(self, bundle, changed, said):
        restamp(bundle, **changed)
        with pytest.raises(BundleError, match=f"{said}.*damaged or from another version"):
            read_sidecar(bundle)

    def test_no_bundle_at_all(self, tmp_path):
        with pytest.raises(BundleError, match=r"no stage\.json there; train the stage"):
            load_bundle(tmp_path / "nothing")

    def test_a_bundle_error_is_a_value_error(self):
        assert issubclass(BundleError, ValueError)  # one line and exit code 2 on the command line


def test_a_kill_at_any_moment_of_a_save_leaves_the_old_bundle_or_the_new(tmp_path, monkeypatch):
    folder = tmp_path / "run" / "bundle"
    old = save(folder, nimg=24, seed=0)
    new = build_stage(CONFIGS["base"])
    seen = set()

    def again() -> None:
        save_bundle(folder, new.state_dict(), config=CONFIGS["base"], text_encoder=None, provenance=provenance(48))

    for _ in killed_everywhere(again, monkeypatch):
        nimg = read_sidecar(folder).provenance.nimg
        expected = {24: old, 48: new}[nimg]
        found = load_bundle(folder)
        assert torch.equal(found.net.out_gain, expected.net.out_gain)
        seen.add(nimg)
    assert seen == {24, 48}
    assert read_sidecar(folder).provenance.nimg == 48
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_text_dimension_of_the_tests_is_that_of_their_config():
    assert CONFIGS["text"].cond.text.dim == TEXT_DIM
