"""What is painted at the end, with which conditions; what is said of copies; the best weights."""

import json
import shutil

import pytest
import torch

from cascade.folder.ending import paint_samples, repeats, take_best, told
from cascade.folder.recipe import SHIPPED
from cascade.pipeline import Cascade
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.bundle import read_sidecar
from stages.training.loop import train
from tests.commands.files import size_of
from tests.folder.pictures import fill
from tests.stages.tiny import base_config

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")


def test_captions_are_painted(tmp_path):
    """A row each; the pictures that are handed on are those of the file, not of the stage below."""
    shown = paint_samples(tmp_path, Cascade.load(SHIPPED), ["red heart", "green apple"], num=2)
    assert shown.pictures.shape == (2, 3, 64, 64)
    assert size_of(shown.path)[0] >= 64


class TestCopies:
    def test_pictures_of_the_set_are_recognised(self, tmp_path):
        """Of exact copies nothing is nearer; others are as far as those of the set among themselves."""
        pack(fill(tmp_path / "a", 60), tmp_path / "shards", PackSettings(size=64), workers=0)
        pack(fill(tmp_path / "b", 60, start=100), tmp_path / "others", PackSettings(size=64), workers=0)
        from data.read.shards import read_split

        own, others = (
            torch.cat([batch.image for batch in read_split(str(tmp_path / name), "train", batch=20, resolution=64)])
            for name in ("shards", "others")
        )
        assert repeats(own, tmp_path / "shards", 64) == (1.0, 60)
        assert 0.3 < repeats(others, tmp_path / "shards", 64)[0] < 0.7

    @pytest.mark.parametrize(
        ("share", "num", "said"),
        [
            (0.95, 1000, "it repeats the pictures"),
            (0.55, 1000, "it does not repeat"),
            (0.55, 60, "60 pictures are few"),
        ],
    )
    def test_what_is_said(self, share, num, said):
        assert told(None, share, num)[-1].startswith(said)


def test_the_best_checkpoint_is_taken(tmp_path, runtime, capsys):
    """One whose held-out loss is well below the last one's goes into the bundle; a hair's breadth does not."""
    pack(
        write_folder(tmp_path / "pictures", 64, 16),
        tmp_path / "shards",
        PackSettings(size=16, shards=8, val=0.2),
        workers=0,
    )
    run = tmp_path / "base_8"
    train(base_config(), name="base_8", data=str(tmp_path / "shards"), out=run, runtime=runtime)
    manifests = {nimg: run / "checkpoints" / f"nimg-{nimg:010d}" / "manifest.json" for nimg in (24, 48)}
    last = json.loads(manifests[48].read_text())["val_loss"]
    for factor, taken in ((0.99, 48), (0.9, 24)):
        content = json.loads(manifests[24].read_text())
        manifests[24].write_text(json.dumps(content | {"val_loss": factor * last}))
        lines: list[str] = []
        take_best(run, "base_8", lines.append)
        assert read_sidecar(run / "bundle").provenance.nimg == taken
        assert bool(lines) == (taken == 24)
    shutil.rmtree(run / "checkpoints")
    take_best(run, "base_8", lambda _: pytest.fail("there is no checkpoint"))
