"""Statistics files: ours, those of others, and what is none."""

import zipfile

import numpy as np
import pytest
import torch

from cascade.judge import stored
from cascade.judge.frechet import frechet_of_moments
from cascade.judge.moments import Moments, Ruler, moments
from cascade.judge.stored import load_moments, save_moments

from .oracle import draw

RULER = Ruler(name="things 64", sha256="ab" * 32)
MU, SIGMA = np.zeros(3), np.eye(3)
OURS = {"mean": MU, "cov": SIGMA, "num": np.array(30), "ruler": np.array("r"), "sha256": np.array("s")}


def test_ours_comes_back(tmp_path):
    path = tmp_path / "real.npz"
    saved = moments(draw(100), RULER)
    save_moments(path, saved)
    loaded = load_moments(path, RULER)
    assert torch.equal(loaded.mean, saved.mean)
    torch.testing.assert_close(loaded.cov, saved.cov, rtol=1e-14, atol=0)
    assert (loaded.num, loaded.ruler) == (100, RULER)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("more", [{}, {"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "mu_s": MU, "sigma_s": SIGMA}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_those_of_adm_and_pytorch_fid_are_read(tmp_path, dtype, more, save):
    features = draw(100, 3).numpy()
    save(tmp_path / "a.npz", mu=features.mean(axis=0).astype(dtype), sigma=np.cov(features.T).astype(dtype), **more)
    loaded = load_moments(tmp_path / "a.npz", RULER)
    assert (loaded.num, loaded.ruler) == (None, None)
    assert frechet_of_moments(loaded, moments(draw(100, 3))) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": MU}, r"holds x, lacks mu, sigma; a statistics file has"),
        ({"mu": MU}, "lacks sigma"),
        ({"mean": MU, "cov": SIGMA}, "lacks num, ruler, sha256"),
        ({"mu": MU, "sigma": np.eye(4)}, r"mu is \(3,\), sigma \(4, 4\); \(d,\) and \(d, d\) are needed"),
        ({"mu": MU[None], "sigma": SIGMA}, r"mu is \(1, 3\)"),
        ({"mu": MU[:0], "sigma": SIGMA[:0, :0]}, r"mu is \(0,\)"),
        ({"mu": MU * np.nan, "sigma": SIGMA}, r"mu \(float64\) is not finite"),
        ({"mu": MU, "sigma": SIGMA.astype(int)}, r"sigma \(int64\) is not finite floating"),
        ({"mu": MU, "sigma": np.triu(np.ones((3, 3)))}, "sigma is no covariance"),
        ({"mu": MU, "sigma": -SIGMA}, "sigma is no covariance"),
        ({"mu": np.array([None]), "sigma": SIGMA}, "mu cannot be read .*allow_pickle"),
        (OURS | {"num": np.array(1.5)}, r"num is float64 \(\)"),
        (OURS | {"num": np.array([3, 4])}, r"num is int64 \(2,\)"),
        (OURS | {"num": np.array(-3)}, "at least 2"),
        (OURS | {"ruler": np.array(3)}, "ruler and sha256 are not one text"),
    ],
)
def test_what_is_no_statistics_file_is_refused(tmp_path, arrays, message):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_moments(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    for content in (b"", b"words", np.lib.format.magic(1, 0)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"no \.npz file, or damaged"):
            load_moments(path)
    with pytest.raises(FileNotFoundError):
        load_moments(tmp_path / "none.npz")


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_cut_file_is_refused(tmp_path, at):
    path = tmp_path / "a.npz"
    save_moments(path, moments(draw(100), RULER))
    path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)])
    with pytest.raises(ValueError, match="damaged"):
        load_moments(path)


def test_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    save_moments(path, moments(draw(100), RULER))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        load_moments(path)


def test_what_claims_to_be_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, mu=np.zeros(100), sigma=np.zeros((100, 100)))
    monkeypatch.setattr(stored, "MAX_ARRAY_BYTES", 10_000)
    with pytest.raises(ValueError, match="sigma takes 80,128 bytes; at most 10,000 are read"):
        load_moments(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("mu", "sigma"):
            header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,), }"
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ValueError, match="mu cannot be read"):
        load_moments(path)


def test_another_ruler_is_refused(tmp_path):
    save_moments(tmp_path / "a.npz", moments(draw(100), RULER))
    with pytest.raises(ValueError, match=r"measured by things 64 \(abababababab\), not by other \(cdcdcdcdcdcd\)"):
        load_moments(tmp_path / "a.npz", Ruler(name="other", sha256="cd" * 32))


def test_moments_of_unknown_origin_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="N and the ruler are needed"):
        save_moments(tmp_path / "a.npz", moments(draw(100)))
    bare = Moments(mean=torch.zeros(2), cov=torch.eye(2), num=None, ruler=RULER)
    with pytest.raises(ValueError, match="N and the ruler are needed"):
        save_moments(tmp_path / "a.npz", bare)
    assert not list(tmp_path.iterdir())
