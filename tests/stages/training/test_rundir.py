"""The run directory: what is refused on resume, what is cut, and that some whole checkpoint survives every accident."""

import json
from pathlib import Path
from typing import Annotated

import pytest

from data.files import replace_text
from stages.config import BaseConfig, CondConfig, StageConfig, TextConfig, TrainConfig
from stages.texts import LATER
from stages.training import rundir
from stages.training.checkpoints import check_manifest, nimg_of
from stages.training.rundir import RunDir
from stages.training.threads import recorded
from tests.stages.killing import killed_everywhere
from tests.stages.tiny import base_config

DATA = "fingerprint-1"


class LaterTrain(TrainConfig):
    """Of a version that knows more keys."""

    shake: Annotated[float, LATER] = 0.5
    kind: Annotated[str, LATER] = "usual"


class LaterConfig(BaseConfig):
    train: LaterTrain = LaterTrain()


def later_config(**train) -> LaterConfig:
    values = base_config().model_dump()
    return LaterConfig.model_validate(values | {"train": values["train"] | train})


@pytest.fixture
def run(tmp_path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.open(base_config(), DATA)
    return made


def save(run: RunDir, nimg: int, keep: int = 2) -> Path:
    """A checkpoint of two files."""
    draft = run.draft(nimg)
    (draft / "local.pt").write_bytes(b"weights at %d" % nimg)
    (draft / "deep").mkdir()
    (draft / "deep" / "ema.safetensors").write_bytes(b"averages at %d" % nimg)
    run.commit(draft, nimg, keep)
    return run.checkpoints / f"nimg-{nimg:010d}"


class TestLatest:
    def test_none_before_the_first(self, run):
        assert run.latest() is None

    def test_the_newest_by_number_not_by_age(self, run):
        save(run, 1000)
        save(run, 80)
        assert nimg_of(run.latest()) == 1000

    @pytest.mark.parametrize("keep", [1, 3])
    def test_keep(self, run, keep):
        for nimg in range(8, 48, 8):
            save(run, nimg, keep)
        assert sorted(nimg_of(path) for path in run.checkpoints.iterdir()) == list(range(48 - 8 * keep, 48, 8))

    def test_foreign_names_are_no_checkpoints(self, run):
        for name in ("nimg-12", "nimg-0000000009.tmp", "nimg-000000000x", "../nimg-0000000010", "step-0000000010"):
            (run.checkpoints / name).mkdir(parents=True)
        assert run.latest() is None

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (lambda folder: (folder / "manifest.json").unlink(), "manifest unreadable"),
            (lambda folder: (folder / "manifest.json").write_text("{"), "manifest unreadable"),
            (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest unreadable"),
            (lambda folder: (folder / "manifest.json").write_text('{"files": {"local.pt": 3}}'), "manifest unreadable"),
            (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"), "manifest unreadable"),
            (lambda folder: (folder / "local.pt").unlink(), "local.pt is missing or cut short"),
            (lambda folder: (folder / "local.pt").write_bytes(b"weights"), "local.pt is missing or cut short"),
            (lambda folder: (folder / "local.pt").write_bytes(b"weights at 17"), "local.pt has another sha256"),
            (lambda folder: (folder / "deep" / "ema.safetensors").unlink(), "ema.safetensors is missing"),
        ],
    )
    def test_a_damaged_one_is_skipped_with_its_reason(self, run, damage, said, capsys):
        older, newer = save(run, 8), save(run, 16)
        damage(newer)
        assert run.latest() == older
        told = capsys.readouterr().err
        assert said in told
        assert newer.name in told
        damage(older)
        with pytest.raises(ValueError, match="no checkpoint is whole; restore one, or choose another --out"):
            run.latest()

    def test_a_whole_one_is_whole(self, run):
        assert check_manifest(save(run, 8)) is None

    def test_a_new_one_replaces_a_damaged_one(self, run):
        save(run, 8)
        (save(run, 16) / "local.pt").unlink()
        assert nimg_of(run.latest()) == 8
        save(run, 16)
        assert nimg_of(run.latest()) == 16


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(run, monkeypatch):
    save(run, 8)
    save(run, 16)
    kills = 0
    for _ in killed_everywhere(lambda: save(run, 24), monkeypatch):
        kills += 1
        assert nimg_of(run.latest()) in (16, 24)
    assert kills > 8
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["nimg-0000000016", "nimg-0000000024"]


def test_a_kill_at_any_moment_of_a_write_leaves_old_text_or_new(tmp_path, monkeypatch):
    path = tmp_path / "text"
    replace_text(path, "old")
    for _ in killed_everywhere(lambda: replace_text(path, "new"), monkeypatch):
        assert path.read_text() in ("old", "new")
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["text"]


class TestResume:
    def reopen(self, run: RunDir, config: StageConfig, data: str = DATA) -> None:
        save(run, 8)
        RunDir(run.path).open(config, data)

    def test_the_same_config_goes_on(self, run):
        self.reopen(run, base_config())

    def test_what_changes_no_result_may_change(self, run):
        other = {
            "images": 96,
            "save_every": 16,
            "log_every": 16,
            "grid_every": 8,
            "keep": 5,
            "workers": 1,
            "micro_batch": 4,
        }
        config = base_config(**other)
        config = config.model_copy(update={"sample": config.sample.model_copy(update={"num_steps": 50})})
        self.reopen(run, config)
        run.begin(config, DATA, 8)
        assert json.loads((run.path / "config.json").read_text())["config"]["train"]["images"] == 96

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (base_config(lr=0.5), r"train\.lr was 0\.03, is 0\.5"),
            (base_config(net={"widths": (16, 48)}), r"net\.widths was \[16, 32\], is \[16, 48\]"),
            (base_config(seed=7, batch=16), r"train\.batch was 8, is 16; train\.seed was 0, is 7"),
            (base_config(classes=0), r"cond\.num_classes was 6, is 0"),
        ],
    )
    def test_another_config_is_refused_by_key(self, run, config, said):
        before = (run.path / "config.json").read_text()
        with pytest.raises(ValueError, match=said + ".*choose another --out"):
            self.reopen(run, config)
        assert (run.path / "config.json").read_text() == before

    def test_all_that_has_to_be_allowed_is_advised_at_once(self, run):
        save(run, 8)
        config = base_config(seed=7, batch=7, streams=7)
        with pytest.raises(ValueError, match=r"train\.seed was 0, is 7; train\.streams was \d, is 7") as caught:
            RunDir(run.path).open(config, DATA, allow=("train.batch",))
        assert str(caught.value).endswith(
            "allow it with --allow-change train.seed --allow-change train.streams and set train.streams=1 "
            "(8 images are seen, which 7 streams cannot have given)"
        )
        config = base_config(seed=7, batch=7, streams=1)
        RunDir(run.path).open(config, DATA, allow=("train.batch", "train.seed", "train.streams"))

    def test_a_run_of_an_older_version_goes_on(self, run):
        """Its config.json lacks keys of today; they mean what that version did."""
        text = CondConfig(text=TextConfig(encoder="minilm", dim=384, tokens=16))
        config = base_config().model_copy(update={"cond": text})
        path = run.path / "config.json"
        RunDir(run.path).open(config, DATA)
        values = json.loads(path.read_text())
        assert values["config"]["cond"]["text"].pop("packed_tokens") == 32
        path.write_text(json.dumps(values))
        self.reopen(run, config)
        path.write_text(json.dumps(values))
        other = text.model_copy(update={"text": text.text.model_copy(update={"packed_tokens": 16})})
        with pytest.raises(ValueError, match=r"cond\.text\.packed_tokens was 32, is 16"):
            self.reopen(run, config.model_copy(update={"cond": other}))

    def test_a_new_key_with_a_default_refuses_no_old_run(self, run, monkeypatch):
        """And while it has its default the text stays what it was; another value is refused, or allowed, by name."""
        before = run.config.read_bytes()
        monkeypatch.setattr(rundir, "StageConfig", LaterConfig)
        self.reopen(run, later_config())
        run.begin(later_config(), DATA, 8)
        assert run.config.read_bytes() == before
        with pytest.raises(
            ValueError, match=r"holds a run of another config: train\.shake was 0\.5, is 0\.7; restore it"
        ):
            self.reopen(run, later_config(shake=0.7))
        with pytest.raises(ValueError, match=r"config: train\.lr was 0\.03, is 0\.5; restore it"):
            self.reopen(run, later_config(lr=0.5))
        RunDir(run.path).open(later_config(shake=0.7), DATA, allow=("train.shake",))
        run.begin(later_config(shake=0.7), DATA, 8)
        told = json.loads(run.config.read_text())["config"]["train"]
        assert (told["shake"], "kind" in told) == (0.7, False)
        with pytest.raises(ValueError, match=r"train\.shake was 0\.7, is 0\.5"):
            self.reopen(run, later_config())

    def test_a_config_that_cannot_be_read_is_compared_as_it_stands(self, run, monkeypatch):
        """What it says besides, or differently, is told; keys that nobody knew then are not."""
        values = json.loads(run.config.read_text())
        values["config"]["train"]["schedule"] = "stairs"
        run.config.write_text(json.dumps(values))
        monkeypatch.setattr(rundir, "StageConfig", LaterConfig)
        with pytest.raises(ValueError, match=r"config: train\.schedule was 'stairs', is 'constant'; restore it"):
            self.reopen(run, later_config())

    @pytest.mark.parametrize(
        ("config", "key", "why"),
        [
            (base_config(net={"widths": (16, 48)}), "net.widths", r"weight net\.\S+ has shape"),
            (base_config(classes=4), "cond.num_classes", r"weight net\.\S+ has shape"),
            (base_config(optimizer="lion"), "train.optimizer", "adamw and lion remember different things"),
        ],
    )
    def test_what_does_not_fit_the_checkpoints_is_not_to_be_allowed(self, run, config, key, why):
        save(run, 8)
        with pytest.raises(ValueError, match=rf"{key} was .*{why}.*which nothing can allow") as caught:
            RunDir(run.path).open(config, DATA, allow=(key,))
        assert "--allow-change" not in str(caught.value)

    def test_nothing_changes_until_the_run_begins_and_then_what_was_left_is_set_aside(self, run):
        for nimg in (8, 16, 24):
            save(run, nimg, keep=9)
            (run.snapshots / f"nimg-{nimg:010d}").mkdir(parents=True)
            (run.samples / f"nimg-{nimg:010d}.png").write_bytes(b"")
        run.metrics.write_text("".join(json.dumps({"nimg": nimg}) + "\n" for nimg in (8, 16, 24)))
        before = {path: path.read_bytes() if path.is_file() else b"" for path in run.path.rglob("*")}
        other = RunDir(run.path)
        other.open(base_config(lr=0.5), DATA, resume="nimg-0000000016", allow=("train.lr",))
        assert nimg_of(other.chosen("nimg-0000000016")) == 16
        assert {path: path.read_bytes() if path.is_file() else b"" for path in run.path.rglob("*")} == before

        other.begin(base_config(lr=0.5), DATA, 16)
        assert json.loads(run.config.read_text())["config"]["train"]["lr"] == 0.5
        assert len(run.metrics.read_text().splitlines()) == 2
        assert nimg_of(run.latest()) == 16
        for folder, end in ((run.checkpoints, ""), (run.snapshots, ""), (run.samples, ".png")):
            assert sorted(path.name for path in folder.iterdir()) == [
                f"nimg-0000000008{end}", f"nimg-0000000016{end}", f"nimg-0000000024{end}.dropped",
            ]  # fmt: skip

    @pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff\xfe\x00"])
    def test_a_damaged_config_is_named_with_the_way_out(self, run, content):
        run.config.write_bytes(content)
        with pytest.raises(ValueError, match=r"run/config\.json: .*; restore it, or remove it, and what this command"):
            self.reopen(run, base_config())
        run.config.unlink()
        self.reopen(run, base_config())

    def test_a_damaged_log_is_named_with_the_way_out(self, run):
        run.metrics.write_bytes(b'{"nimg": 8}\n\0\0\0\n')
        with pytest.raises(ValueError, match=r"metrics\.jsonl: .* is no log line; remove that line"):
            run.begin(base_config(), DATA, 8)

    def test_a_damaged_environment_is_named_with_the_way_out(self, run):
        save(run, 8)
        path = run.path / "environment.json"
        path.write_text("{")
        with pytest.raises(
            ValueError, match=r"environment\.json: not readable as JSON .*; restore it, or remove it, and"
        ):
            recorded(run.path)
        path.unlink()
        assert recorded(run.path) is None

    def test_other_data_are_refused(self, run):
        with pytest.raises(ValueError, match="data was 'fingerprint-1', is 'fingerprint-2'"):
            self.reopen(run, base_config(), "fingerprint-2")

    def test_before_the_first_checkpoint_everything_may_change(self, run):
        RunDir(run.path).open(base_config(lr=0.5), "fingerprint-2")

    def test_unfinished_checkpoints_are_cleared(self, run):
        run.draft(16)
        RunDir(run.path).open(base_config(), DATA)
        assert list(run.checkpoints.iterdir()) == []

    def test_a_folder_that_cannot_be_written_is_refused(self, run, monkeypatch):
        monkeypatch.setattr("os.access", lambda path, mode: False)
        with pytest.raises(ValueError, match="not writable; choose another --out"):
            RunDir(run.path).open(base_config(), DATA)


class TestMetrics:
    def test_lines_beyond_the_checkpoint_are_cut(self, run):
        lines = [json.dumps({"nimg": nimg}) + "\n" for nimg in (8, 16, 24)]
        run.metrics.write_text("".join(lines))
        run.cut_metrics(16)
        assert run.metrics.read_text() == "".join(lines[:2])

    def test_half_a_line_is_dropped(self, run):
        run.metrics.write_text('{"nimg": 8}\n{"nimg": 1')
        run.cut_metrics(8)
        assert run.metrics.read_text() == '{"nimg": 8}\n'

    def test_no_file_is_no_error(self, run):
        run.cut_metrics(8)
        assert not run.metrics.exists()
