"""What is painted around a picture whose sides are not the stage's own: it is continued as stored, and cut as stored."""

import pytest
import torch
import torch.nn.functional as F

from cascade.engine.canvas import EDGE, Canvas
from tests.cascade.chains import tiny_config


@pytest.mark.parametrize("continued", [True, False])
@pytest.mark.parametrize("sides", [(1, 1), (3, 7), (9, 4)])
def test_a_picture_is_continued_by_its_last_pixels_and_cut_out_again(sides, continued):
    """A picture with an axis of time, too: its frames are alike."""
    config = tiny_config(8, 16).stages["sr_16"]
    canvas = Canvas.of(config, (2 * sides[0], 2 * sides[1]), continued=continued)
    film = torch.randint(0, 256, (2, 3, 4, *sides), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    before = EDGE * continued
    after = [side // 2 - old - before for side, old in zip(canvas.size, sides, strict=True)]
    widths = (before, after[1], before, after[0])
    wider = canvas.continued(film)
    assert wider.shape[-2:] == (canvas.size[0] // 2, canvas.size[1] // 2)
    for frame, other in zip(film.unbind(2), wider.unbind(2), strict=True):
        assert torch.equal(other, F.pad(frame.float(), widths, mode="replicate").to(torch.uint8))
        assert torch.equal(canvas.continued(frame), other)
    large = wider.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.equal(canvas.cut(large), film.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert canvas.cut(large).is_contiguous()
