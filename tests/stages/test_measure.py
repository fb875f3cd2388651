"""stages.measure against pictures whose numbers are known."""

import numpy as np
import pytest
from PIL import Image

from data.pack.packer import pack
from data.pack.settings import PackSettings
from stages import measure


@pytest.fixture
def checked(tmp_path):
    """Eight pictures of 16 px: a chessboard of black and white pixels, of which nothing is left at 8 px."""
    (tmp_path / "pictures").mkdir()
    board = (np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)
    for k in range(8):
        Image.fromarray(np.stack([board] * 3, -1)).save(tmp_path / "pictures" / f"{k}.png")
    pack(tmp_path / "pictures", tmp_path / "shards", PackSettings(size=16, shards=8), workers=0)
    return tmp_path / "shards"


def test_what_is_known_comes_out(checked, capsys):
    """Pixels are -1 and 1: their root-mean-square is 1. Upsampled, the picture is grey but for its borders."""
    measure.main(str(checked), resolution=16, low_res=8)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("noise: {sigma_data: 1.000}  # root-mean-square of 8 pictures")
    assert float(second.split()[1]) == pytest.approx(1.0, abs=0.05)


def test_bright_and_dim_pictures_count_by_their_squares(tmp_path, capsys):
    """Half of the pixels are -1, half about 0: sqrt(1/2), not the mean 1/2 of the pictures' own."""
    (tmp_path / "pictures").mkdir()
    for k in range(8):
        Image.new("RGB", (16, 16), (128 * (k % 2),) * 3).save(tmp_path / "pictures" / f"{k}.png")
    pack(tmp_path / "pictures", tmp_path / "shards", PackSettings(size=16, shards=8), workers=0)
    measure.main(str(tmp_path / "shards"), resolution=16)
    assert capsys.readouterr().out.startswith("noise: {sigma_data: 0.707}")


def test_a_base_stage_has_no_low_res(checked, capsys):
    measure.main(str(checked), resolution=16)
    assert "low_res_sigma" not in capsys.readouterr().out


@pytest.mark.parametrize("low_res", [16, 5, 32])
def test_a_low_res_that_does_not_fit(checked, low_res):
    with pytest.raises(ValueError, match=f"--low-res {low_res} must divide --resolution 16 and be smaller"):
        measure.main(str(checked), resolution=16, low_res=low_res)


NOISY = ("degrade.probability=1", "degrade.blur=0", "degrade.noise=0.5", "degrade.jpeg=100")


def test_what_low_res_loses_by_degradations_counts(tmp_path, capsys):
    """Noise of std 0.5 u^2, of variance 0.25 / 5, on gray pictures, of which clean low_res loses nothing; by THE upsample some of
    it is smoothed away."""
    (tmp_path / "pictures").mkdir()
    for k in range(100):
        Image.new("RGB", (16, 16), (128, 128, 128)).save(tmp_path / "pictures" / f"{k}.png")
    pack(tmp_path / "pictures", tmp_path / "shards", PackSettings(size=16, shards=8), workers=0)
    measure.main(str(tmp_path / "shards"), resolution=16, low_res=8)
    assert "low_res_sigma: 0.000  # of x0 - upsample(low_res)\n" in capsys.readouterr().out
    measure.main(str(tmp_path / "shards"), list(NOISY), resolution=16, low_res=8)
    second = capsys.readouterr().out.splitlines()[1]
    assert second.endswith("# of x0 - upsample(low_res), degraded as in training")
    assert 0.6 * 0.05**0.5 < float(second.split()[1]) < 1.1 * 0.05**0.5


@pytest.mark.parametrize(
    ("said", "low_res", "told"),
    [
        (["degrade.blurr=3"], 8, r"degrade\.blurr=3: write KEY=VALUE, keys are .*; did you mean degrade\.blur\?"),
        (["degrade.blur"], 8, r"degrade\.blur: write KEY=VALUE"),
        (["degrade.probability=2"], 8, r"degrade\.probability: Input should be less than or equal to 1 \(got '2'\)"),
        (["degrade.blur=3"], 8, r"degrade\.blur=3: degrade\.probability is 0, nothing would be degraded"),
        (NOISY, 0, r"degrade\.probability=1 .*: a base stage has no low_res to degrade; give --low-res"),
    ],
)
def test_degradations_that_cannot_be(checked, said, low_res, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        measure.main(str(checked), list(said), resolution=16, low_res=low_res)
