"""The closed-form description: what it must not see, and what it must."""

import pytest
import torch

from cascade.judge.describe import describe

WHITE = (255, 255, 255)


def square(top, left, side=12, size=32, color=(200, 30, 30)):
    picture = torch.full((3, size, size), 255, dtype=torch.uint8)
    picture[:, top : top + side, left : left + side] = torch.tensor(color, dtype=torch.uint8)[:, None, None]
    return picture


def test_a_thing_may_move_and_its_finish_tells_where_it_is():
    found = describe(torch.stack([square(2, 3), square(15, 9)]), WHITE)
    torch.testing.assert_close(found.thing[0], found.thing[1])
    assert not torch.equal(found.finish[0], found.finish[1])


def test_a_thing_may_grow():
    found = describe(torch.stack([square(2, 2, 8), square(2, 2, 24), square(2, 2, 8, color=(30, 30, 200))]), WHITE)
    near, far = (found.thing[0] - found.thing[1]).norm(), (found.thing[0] - found.thing[2]).norm()
    assert near < 0.1 * far


def test_a_row_does_not_depend_on_the_others():
    pictures = torch.randint(0, 256, (70, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    whole, alone = describe(pictures, WHITE), describe(pictures[66:67], WHITE)
    torch.testing.assert_close(whole.thing[66:67], alone.thing)
    torch.testing.assert_close(whole.finish[66:67], alone.finish)


def test_the_background_is_no_ink():
    on_white, on_grey = square(4, 5), square(4, 5)
    on_grey[:, on_white[1] == 255] = 128
    white, grey = describe(on_white[None], WHITE), describe(on_grey[None], (128, 128, 128))
    place = slice(-5, None)
    torch.testing.assert_close(white.finish[:, place], grey.finish[:, place])


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_of_one_colour_is_described(level):
    found = describe(torch.full((1, 3, 16, 16), level, dtype=torch.uint8), WHITE)
    assert found.thing.isfinite().all()
    assert found.finish.isfinite().all()


def test_pictures_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="square RGB pictures are needed"):
        describe(torch.zeros(1, 3, 16, 20, dtype=torch.uint8), WHITE)
