"""A whole cascade with no training: three stages whose optimal denoisers are known, over a finite set of pictures.

So every picture that comes out must be one of the set, exactly, and each knob does what its name says.
"""

from itertools import pairwise

import pytest
import torch

from cascade.request import Request
from data.batch import to_uint8
from data.resize import downsample
from stages.diffusion.samplers import SAMPLERS

from .chains import finished, ideal, pictures

NUM = 12


@pytest.fixture(scope="module")
def images():
    return pictures(NUM, 32)


def identity(pictures, images):
    """(b,) which picture of the set each row is nearest to; images are shrunk to the rows' size."""
    small = downsample(images.double(), tuple(pictures.shape[-2:]))
    shown = pictures.double() / 127.5 - 1
    return torch.cdist(shown.flatten(1), small.flatten(1)).argmin(1)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_picture_is_one_of_the_set(images, sampler):
    model = ideal(images, sampler=sampler, num_steps=12)
    got = finished(model.sample(Request(num=16)))
    assert torch.equal(got, to_uint8(images)[identity(got, images)])
    assert len(identity(got, images).unique()) >= NUM // 2  # and not always the same one


def test_the_three_stages_show_one_picture(images):
    events = list(ideal(images, num_steps=12).sample(Request(num=16)))
    shown = [identity(finished(events, name), images) for name in ("base_8", "sr_16", "sr_32")]
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[1], shown[2])


def test_a_label_chooses_among_its_own(images):
    labels = torch.arange(NUM) % 3
    model = ideal(images, labels=labels, num_steps=8)
    got = finished(model.sample(Request(num=6, labels=(0, 2))))
    assert labels[identity(got, images)].tolist() == [0] * 6 + [2] * 6


def test_each_picture_is_as_likely_as_another(images):
    model = ideal(images[:4], sizes=(8,), num_steps=8)
    counts = torch.bincount(identity(finished(model.sample(Request(num=400, batch=400))), images[:4]), minlength=4)
    assert counts.min() > 100 - 4 * 75**0.5  # four standard deviations of a binomial with n = 400, p = 1/4


def test_more_augmentation_keeps_less_of_the_base_picture():
    """Measured 1.00, 1.00, 1.00, 0.52, 0.05 at these levels; chance alone is 1/32. The contrast of the set moves the fall."""
    images = pictures(32, 4, seed=1).repeat_interleave(4, -1).repeat_interleave(4, -2) * 0.3
    model = ideal(images, sizes=(8, 16), num_steps=12)
    kept = []
    for aug_sigma in (0.0, 0.1, 0.5, 2.0, 10.0):
        request = Request(num=128, batch=128, settings={"sr_16": {"aug_sigma": aug_sigma}})
        events = list(model.sample(request))
        same = identity(finished(events, "base_8"), images) == identity(finished(events), images)
        kept.append(same.float().mean().item())
    assert kept[0] == kept[1] == 1
    assert all(more >= less for more, less in pairwise(kept))
    assert 0.3 < kept[3] < 0.7
    assert kept[4] < 0.2


def test_super_resolution_alone_repeats_what_the_chain_did(images):
    """The noise of a stage depends on seed, image and stage alone; its condition is the saved picture of the stage before."""
    model = ideal(images, num_steps=12)
    events = list(model.sample(Request(num=8, seed=3)))
    alone = ideal(images, num_steps=12)
    alone.links = alone.links[1:]
    given = finished(events, "base_8")
    again = finished(alone.sample(Request(low_res=given, seed=3)))
    assert torch.equal(again, finished(events))
