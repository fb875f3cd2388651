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
