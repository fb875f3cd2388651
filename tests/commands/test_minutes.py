"""train.py --minutes: a length that is measured once and the same after a resume."""

import json

import pytest

import train
from cascade.train import minutes
from cascade.train.minutes import check_seconds
from stages.bundle import read_sidecar
from stages.training.length import FEWEST_UPDATES, length_of
from tests.calling import call


@pytest.mark.parametrize(("images", "batch"), [(0, 8), (7_000, 8), (7_000, 16), (100_000, 16), (10_000_000, 256)])
def test_a_length_follows_the_rules(images, batch):
    """Turned by 2 or less, warm-up of at most 100 updates and a tenth, an average over a twentieth, whole batches."""
    length = length_of(images, batch)
    updates = length.images // batch
    assert length.images % batch == 0
    assert updates == max(FEWEST_UPDATES, round(images / batch))
    assert length.lr <= 0.08
    assert length.lr * updates**0.5 == pytest.approx(2, rel=0.05) or (length.lr == 0.08 and updates < 700)
    assert length.warmup == min(100, updates // 10) * batch
    assert length.images / 20 <= length.ema <= length.images / 20 + batch
    assert length.save_every % batch == length.grid_every % batch == length.log_every % batch == 0
    assert length.images / length.save_every <= 10


def test_too_few_minutes_say_how_many_are_needed():
    """And with those it is enough."""
    with pytest.raises(ValueError, match="is below the first save: 30 of 50 updates at 10 img/s; give") as caught:
        check_seconds(24.0, 10.0, 8, 0.5)
    needed = float(str(caught.value).rsplit("give ", 1)[1].split()[0])
    check_seconds(24.0 + 60 * 0.9 * (needed - 0.5), 10.0, 8, needed)


def test_a_run_of_minutes_resumes_with_its_length(small, shards, tmp_path, refused, monkeypatch, capsys):
    """A resume measures nothing and has the same config; other minutes are refused. The rate is that of a slow machine."""
    monkeypatch.setattr(minutes, "measure_rate", lambda *_, **__: (40.0, 3))
    arguments = (small, "base_8", "--data", shards, "--out", tmp_path, "--minutes", 0.25)
    overrides = ("stages.base_8.train.workers=0", "stages.base_8.train.ema=[16]")
    assert call(train.main, *arguments, *overrides) == 0
    run = tmp_path / "base_8"
    kept = json.loads((run / "length.json").read_text())
    config = read_sidecar(run / "bundle").config
    length = length_of(kept["length"]["images"], 8)
    assert config.train.images == length.images == read_sidecar(run / "bundle").provenance.nimg
    assert (config.train.lr, config.train.warmup, config.train.ema) == (
        length.lr,
        length.warmup,
        (16,),
    )  # the user's wins

    monkeypatch.setattr(minutes, "measure_rate", lambda *_, **__: pytest.fail("measured again"))
    capsys.readouterr()
    assert call(train.main, *arguments, *overrides) == 0
    assert "nothing to do" in capsys.readouterr().out
    line = refused(train.main, *arguments[:-1], 0.5, *overrides)
    assert "this run began with --minutes 0.25" in line
    assert call(train.main, *arguments, *overrides, "--images", length.images + 16) == 0
    assert read_sidecar(run / "bundle").provenance.nimg == length.images + 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--minutes", "1e-4"), "--minutes 0.0001 is below the first save"),
        (("--minutes", "-1"), "--minutes -1: minutes above 0 are needed"),
        (("--minutes", "nan"), "--minutes nan: minutes above 0 are needed"),
        (("--minutes", "1", "--images", "8"), "each says how long to train; leave one out"),
        (("--minutes", "1", "--dry-run"), "a dry run measures nothing"),
    ],
)
def test_minutes_that_are_refused(small, shards, tmp_path, refused, options, message):
    assert message in refused(train.main, small, "base_8", "--data", shards, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
