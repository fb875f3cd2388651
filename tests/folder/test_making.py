"""A cascade from a folder: begun, gone on with, refused."""

import shutil

import pytest

from cascade import demo
from cascade.card import __main__ as card
from cascade.folder import making
from cascade.folder.choices import Asked
from cascade.folder.recipe import SHIPPED
from cascade.folder.record import read_record, write_record
from cascade.pipeline import Cascade
from tests.calling import call
from tests.commands.files import size_of
from tests.folder.pictures import fill

ASKED = Asked(minutes=20, size=64)


@pytest.fixture
def refused(capsys):
    """Calls the demo, which must fail with exit 2 and one line; gives the line."""

    def call_it(*arguments) -> str:
        capsys.readouterr()
        assert call(demo.main, *arguments) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("looking", "packing"))]
        assert len(lines) == 1, lines
        return lines[0]

    return call_it


class TestRecord:
    def test_the_same_command_goes_on(self, tmp_path):
        assert read_record(tmp_path, "abc", ASKED, tmp_path) is None
        write_record(tmp_path, "abc", ASKED, {"base_16": "shards_64"})
        more = Asked(minutes=20, size=64, overrides=("stages.base_16.train.images=99",))
        assert read_record(tmp_path, "abc", more, tmp_path) == {"base_16": "shards_64"}

    def test_changed_pictures_and_choices_are_refused(self, tmp_path):
        write_record(tmp_path, "abc", ASKED, {})
        with pytest.raises(ValueError, match="has changed since"):
            read_record(tmp_path, "abd", ASKED, tmp_path)
        with pytest.raises(ValueError, match=r"--minutes 30: .* was begun with 20; give the same to go on"):
            read_record(tmp_path, "abc", Asked(minutes=30, size=64), tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"listing": "abc"}'])
    def test_a_damaged_record(self, tmp_path, text):
        (tmp_path / "folder.json").write_text(text)
        with pytest.raises(ValueError, match=r"folder\.json|has changed since"):
            read_record(tmp_path, "abc", ASKED, tmp_path)


@pytest.mark.parametrize(
    ("out", "message"), [("a/out", "would train on what the first"), ("a", "would train"), (".", "itself")]
)
def test_pictures_and_cascade_lie_apart(tmp_path, refused, out, message):
    fill(tmp_path / "a", 12)
    assert message in refused(tmp_path / "a", "--out", tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_bad_folders(tmp_path, refused):
    assert "not a folder; name one of pictures" in refused(tmp_path / "nowhere", "--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "has no pictures" in refused(tmp_path / "empty", "--out", tmp_path / "out")
    fill(tmp_path / "nine", 9)
    assert "9 pictures: at least 10 are needed" in refused(tmp_path / "nine", "--out", tmp_path / "out")
    fill(tmp_path / "small", 10, (40, 40))
    assert "10 of 10 pictures are smaller than 64 px" in refused(tmp_path / "small", "--out", tmp_path / "out")
    fill(tmp_path / "panorama", 1, (4000, 300))
    assert "1 pictures: at least 10" in refused(tmp_path / "panorama", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_seen_before_anything_is_packed(tmp_path, refused, monkeypatch):
    fill(tmp_path / "a", 12)
    monkeypatch.setattr(making, "free_gb", lambda _: 0.1)
    assert "0.1 GB are free, about 0.5 are needed; make room" in refused(tmp_path / "a", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_minutes_leave_shards_and_no_cascade(tmp_path, refused):
    """By the speed of real updates; with more minutes what was packed is used."""
    fill(tmp_path / "a", 12)
    line = refused(tmp_path / "a", "--out", tmp_path / "out", "--minutes", 0.001)
    assert "--minutes 0.001 is below the first save: 0 of 50 updates" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["shards_64"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_pictures_to_a_cascade(tmp_path, refused, monkeypatch, capsys):
    """All steps with real trainings, as long as at 40 img/s for 48 s; then the same command, and a changed folder."""
    monkeypatch.setattr(making, "speed", lambda _, since: 40.0)
    folder, out = fill(tmp_path / "a", 60, (96, 64)), tmp_path / "out"
    arguments = (folder, "stages.base_16.train.workers=0", "--out", out, "--minutes", 0.8, "--init", "none")
    assert call(demo.main, *arguments) == 0
    told = capsys.readouterr().out
    assert "60 pictures kept" in told
    assert f"python sample.py --cascade {out}" in told
    assert "repeat" in told
    assert Cascade.load(out).names == ["base_16", "sr_64"]
    assert (out / "report.html").stat().st_size > 10_000
    assert size_of(out / "samples.png")[0] > 64
    assert f"{out / 'README.md'}: its model card" in told
    assert call(card.main, out, "--check") == 0
    assert "| shards_64 |" in (out / "README.md").read_text()
    yaml, samples = (out / "cascade.yaml").read_bytes(), (out / "samples.png").read_bytes()

    assert call(demo.main, *arguments) == 0
    assert "training" in capsys.readouterr().out
    assert (out / "cascade.yaml").read_bytes() == yaml
    assert (out / "samples.png").read_bytes() == samples

    shutil.copy(folder / "0000.png", folder / "new.png")
    assert f"{folder} has changed since {out} was begun" in refused(*arguments)


def test_a_readme_of_ones_own_is_no_reason_to_fail(tmp_path):
    """All else is done when the card is written."""
    out = shutil.copytree(SHIPPED, tmp_path / "out")
    (out / "README.md").write_text("my own notes")
    line = making._card(out, (), None)
    assert line.startswith("no model card was written: ")
    assert "README.md is there and was not written by this command" in line
    assert (out / "README.md").read_text() == "my own notes"
    (out / "README.md").unlink()
    assert making._card(out, (), None).startswith(f"{out / 'README.md'}: its model card")


def test_ctrl_c_says_how_it_goes_on(tmp_path, monkeypatch, capsys):
    """Exit 130; all that was chosen is there, so that the line only trains."""

    def interrupted(*_) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "speed", lambda _, since: 40.0)
    monkeypatch.setattr(making, "run_all", interrupted)
    folder, out = fill(tmp_path / "a b", 12), tmp_path / "out"
    assert call(demo.main, folder, "--out", out, "--minutes", 5, "--init", "none") == 130
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"stopped; it goes on with: python -m cascade.demo '{folder}' --out {out} --minutes 5 --init none"
    assert {path.name for path in out.iterdir()} == {"cascade.json", "cascade.yaml", "folder.json", "shards_64"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--minutes", "5", "--upscale"),
            "--minutes, --upscale: of a cascade from your own pictures; name their folder",
        ),
        (("pictures", "--sr-images", "9"), "--sr-images: of the demo without PICTURES; leave it out"),
        (("pictures", "--minutes", "nan"), "--minutes nan: minutes above 0 are needed"),
    ],
)
def test_options_that_would_do_nothing_or_come_late(refused, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)
    assert not any(tmp_path.iterdir())
