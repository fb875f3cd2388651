"""Saves in the background: they change nothing, a failed one costs nothing but itself, and the right ones are kept."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.errors import RunError
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages import export
from stages.bundle import load_bundle, read_sidecar
from stages.config import AugConfig
from stages.training import loop
from stages.training.checkpoints import nimg_of, read_manifest
from stages.training.ema import begun_at, decay_of, ema_file
from stages.training.engine import weights_in
from stages.training.loop import train
from stages.training.posthoc import stored_averages
from stages.training.rundir import RunDir
from stages.training.runtime import Options
from stages.training.saving import Saver
from stages.training.validate import make_validation
from tests.stages.tiny import base_config, sr_config

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir(tmp_path / "base_8")


class TestSaver:
    def test_the_caller_goes_on_while_a_job_runs(self, tmp_path):
        saver, held, order = Saver(tmp_path), threading.Event(), []
        saver.submit("one", lambda: (held.wait(10), order.append("job")))
        order.append("caller")
        held.set()
        saver.wait()
        assert order == ["caller", "job"]

    def test_one_job_at_a_time(self, tmp_path):
        saver, running = Saver(tmp_path), []

        def job():
            running.append(1)
            time.sleep(0.05)
            assert len(running) == 1
            running.pop()

        for _ in range(3):
            saver.submit("one", job)
        saver.wait()
        assert saver.failed == 0

    def test_failures_in_a_row_are_told_and_counted_and_two_are_the_end(self, tmp_path, capsys):
        saver, done = Saver(tmp_path), []

        def fail():
            (tmp_path / "no" / "such").write_text("")

        for k, job in enumerate((fail, lambda: done.append(1), fail, fail, lambda: done.append(2))):
            saver.submit(f"checkpoint {k}", job)
            saver.wait()
            assert saver.failed == [1, 0, 1, 2, 2][k]
        assert done == [1]
        assert f"checkpoint 3 could not be saved in {tmp_path} (" in capsys.readouterr().err
        assert " GB free): [Errno 2]" in saver.problem


FULL = """
import resource, sys
from pathlib import Path
import torch
from stages.training.loop import train
from stages.training.runtime import Runtime
from stages.training import loop
from stages.training.checkpoints import Checkpoints
from tests.stages.tiny import base_config
from data.cli import run

draft = Checkpoints.draft
FULL = {full}
def limited(self, nimg):
    size = 20_000 if nimg in FULL else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    return draft(self, nimg)
Checkpoints.draft = limited
runtime = Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
def main():
    train(base_config(save_every=8), name="base_8", data={data!r}, out=Path({out!r}), runtime=runtime)
sys.argv = ["train.py"]
run(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("full", "code", "left"),
    [((24,), 0, [40, 48]), ((24, 32), 2, [8, 16]), ((48,), 2, [32, 40]), ((8, 16), 2, [])],
    ids=["once: training goes on", "twice in a row: it stops", "at the end: it says so", "the first: there is none"],
)
def test_a_disk_full_in_a_save_leaves_older_checkpoints_whole(run, shards, full, code, left):
    """A file of more than 20 kB cannot be written in some saves, which is what a full disk does."""
    script = FULL.format(full=set(full), data=str(shards), out=str(run.path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == code, done.stderr[-2000:]
    assert f"the checkpoint of image {full[0]} could not be saved in {run.path} (" in done.stderr
    assert sorted(nimg_of(path) for path in run.checkpoints.glob("nimg-*[0-9]")) == left
    assert not [*run.path.rglob("*.tmp"), *run.path.rglob("*.part"), *run.path.glob("bundle.new")]
    assert ("older checkpoints are whole" in done.stderr) == bool(left)
    assert code == 0 or "make room there, and the same command goes on" in done.stderr.splitlines()[-1]
    if not left:
        assert "there is no checkpoint yet; make room; training goes on" in done.stderr
        return
    assert nimg_of(run.latest()) == left[-1] == read_sidecar(run.bundle).provenance.nimg
    load_bundle(run.bundle)


def test_a_save_is_the_state_of_its_moment_though_training_goes_on(run, shards, runtime, monkeypatch):
    """The save of image 24 is held back until 40 images were seen: it still is what a run that ends at 24 writes."""
    reached, check, draft = threading.Event(), loop.Skips.check, RunDir.draft

    def checked(self, update, batch, nimg, run):
        check(self, update, batch, nimg, run)
        if nimg >= 32:
            reached.set()

    def held_back(self, nimg):
        assert reached.wait(60)
        return draft(self, nimg)

    monkeypatch.setattr(loop.Skips, "check", checked)
    monkeypatch.setattr(RunDir, "draft", held_back)
    train(base_config(), name="base_8", data=shards, out=run.path, runtime=runtime)
    monkeypatch.undo()
    other = RunDir(run.path.with_name("short"))
    train(base_config(images=24), name="base_8", data=shards, out=other.path, runtime=runtime)
    held, whole = (load_file(each.checkpoints / "nimg-0000000024" / "state.safetensors") for each in (run, other))
    assert all(torch.equal(held[name], whole[name]) for name in whole)


class TestWhichToResume:
    @pytest.fixture
    def trained(self, run, shards, runtime):
        train(base_config(save_every=16, keep=3), name="base_8", data=shards, out=run.path, runtime=runtime)
        return run

    def again(self, run, shards, runtime, **told):
        config = base_config(save_every=16, keep=3, images=64)
        return train(config, name="base_8", data=shards, out=run.path, runtime=runtime, options=Options(**told))

    def test_an_older_one_by_name(self, trained, shards, runtime):
        self.again(trained, shards, runtime, resume="nimg-0000000016")
        names = sorted(path.name for path in trained.checkpoints.iterdir())
        assert [name for name in names if name.endswith("dropped")] == [
            "nimg-0000000032.dropped", "nimg-0000000048.dropped",
        ]  # fmt: skip
        lines = [json.loads(line)["nimg"] for line in trained.metrics.read_text().splitlines()]
        assert lines == sorted(set(lines))

    def test_an_older_one_takes_snapshots_and_bundle_with_it(self, trained, shards, runtime, tmp_path):
        """Also where it is asked for no further update; `stages.export` gives the branch that goes on, not the one left."""
        out = trained.path.with_name("branches")
        of = {"name": "base_8", "data": shards, "out": out, "runtime": runtime}
        train(base_config(save_every=16, keep=3, snapshot_every=8), **of)
        config = base_config(save_every=16, keep=3, snapshot_every=8, images=16)
        train(config, **of, options=Options(resume="nimg-0000000016"))
        sidecar = read_sidecar(out / "bundle")
        assert (sidecar.provenance.nimg, sidecar.config.train.images) == (16, 16)
        assert {each.nimg for each in stored_averages(out)} == {8, 16}
        allowed = Options(allow=("train.lr",))
        train(base_config(save_every=16, keep=3, snapshot_every=8, images=32, lr=0.05), **of, options=allowed)
        export.main(out, tmp_path / "exported")
        assert read_sidecar(tmp_path / "exported").provenance.nimg == 32
        made, own = (load_file(each / "ema.safetensors") for each in (tmp_path / "exported", out / "bundle"))
        assert all(torch.allclose(made[name], own[name], rtol=1e-4, atol=1e-5) for name in own)

    @pytest.mark.parametrize("name", ["nimg-0000000024", "../../nimg-0000000016", "step-16", "", "nimg-16"])
    def test_a_name_that_is_not_there_or_leaves_the_folder_is_refused(self, trained, shards, runtime, name):
        before = sorted(trained.path.rglob("*"))
        with pytest.raises(
            ValueError, match=r"no such checkpoint in .*; there are nimg-0000000016, nimg-0000000032, nimg-"
        ):
            self.again(trained, shards, runtime, resume=name)
        assert sorted(trained.path.rglob("*")) == before

    def test_latest_where_there_is_none_is_refused(self, run, shards, runtime):
        with pytest.raises(ValueError, match="there are none, latest and best"):
            self.again(run, shards, runtime, resume="latest")

    def test_a_damaged_checkpoint_is_refused_by_name(self, trained, shards, runtime):
        (trained.checkpoints / "nimg-0000000032" / "state.safetensors").write_bytes(b"")
        with pytest.raises(ValueError, match=r"nimg-0000000032: state.safetensors is missing or cut short"):
            self.again(trained, shards, runtime, resume="nimg-0000000032")

    def test_another_config_resumes_only_where_allowed(self, trained, shards, runtime):
        config = base_config(save_every=16, keep=3, images=64, lr=0.02, clip=0.5)
        for allow, refused in ((("train.lr",), "train.clip was 1.0, is 0.5"), (("train.lr", "train.clip"), "")):
            told = Options(allow=allow)
            if refused:
                with pytest.raises(ValueError, match=refused):
                    train(config, name="base_8", data=shards, out=trained.path, runtime=runtime, options=told)
            else:
                train(config, name="base_8", data=shards, out=trained.path, runtime=runtime, options=told)
        assert nimg_of(trained.latest()) == 64

    def test_a_resume_that_fails_has_changed_nothing(self, trained, shards, runtime, monkeypatch):
        """Though it was allowed: the command that made the run goes on, as if the other had never been."""

        def full(*_):
            raise torch.OutOfMemoryError("no memory")

        def there():
            return {path: path.read_bytes() if path.is_file() else b"" for path in trained.path.rglob("*")}

        config, before = base_config(save_every=16, keep=3, images=64, lr=0.02), there()
        told = Options(allow=("train.lr",), resume="nimg-0000000032")
        with monkeypatch.context() as patch:
            patch.setattr(loop.Skips, "check", full)
            with pytest.raises(RunError):
                train(config, name="base_8", data=shards, out=trained.path, runtime=runtime, options=told)
        assert there() == before
        self.again(trained, shards, runtime)
        assert nimg_of(trained.latest()) == 64

    def test_a_new_half_life_starts_from_the_weights_and_says_so(self, run, shards, runtime, capsys):
        of = {"name": "base_8", "data": shards, "out": run.path, "runtime": runtime}
        train(base_config(save_every=8, keep=9, images=24), **of)
        told = Options(allow=("train.ema",))
        train(base_config(save_every=8, keep=9, images=40, ema=(40, 16, 64)), **of, options=told)
        assert (
            "base_8: note: the average of half-life 40 is new; it starts from the weights at 24"
            in capsys.readouterr().err
        )
        expected = weights_at(run, 24)
        for nimg in (32, 40):
            decay, weights = decay_of(40, nimg, 8), weights_at(run, nimg)
            expected = {name: decay * expected[name] + (1 - decay) * weights[name] for name in weights}
            found = load_file(ema_file(run.checkpoints / f"nimg-{nimg:010d}", 40))
            assert all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-6) for name in found)
        assert read_sidecar(run.bundle).provenance.ema == 40
        assert [begun_at(ema_file(run.latest(), life)) for life in (16, 40)] == [0, 24]
        train(base_config(save_every=8, keep=9, images=48, ema=(40, 16, 64)), **of)
        assert begun_at(ema_file(run.latest(), 40)) == 24

    def test_a_schedule_that_is_stretched_says_how_the_learning_rate_jumps(self, run, shards, runtime, capsys):
        for images, told in ((24, False), (48, True), (48, False)):
            config = base_config(images=images, schedule="cosine")
            train(config, name="base_8", data=shards, out=run.path, runtime=runtime)
            said = capsys.readouterr().err
            assert ("the learning rate jumps from 0 to 0.0196 at image 24: the cosine schedule" in said) == told
            assert ("jumps" in said) == told


def weights_at(run: RunDir, nimg: int) -> dict[str, torch.Tensor]:
    return weights_in(load_file(run.checkpoints / f"nimg-{nimg:010d}" / "state.safetensors"))


class TestBest:
    def test_the_best_stays_beside_the_last(self, run):
        for nimg, loss in ((8, 3.0), (16, 1.0), (24, None), (32, 2.0), (40, float("nan")), (48, 4.0)):
            draft = run.draft(nimg)
            (draft / "x").write_text("x")
            run.commit(draft, nimg, 2, loss)
        assert sorted(nimg_of(path) for path in run.checkpoints.iterdir()) == [16, 40, 48]
        assert nimg_of(run.best()) == 16
        assert nimg_of(run.latest()) == 48
        assert read_manifest(run.latest())["val_loss"] == 4.0

    def test_going_back_to_the_best(self, run):
        for nimg, loss in ((8, 3.0), (16, 1.0), (24, 2.0)):
            draft = run.draft(nimg)
            (draft / "x").write_text("x")
            run.commit(draft, nimg, 9, loss)
        assert nimg_of(run.chosen("best")) == 16


def test_a_folder_that_cannot_be_written_is_named(run, shards, runtime):
    if os.geteuid() == 0:
        pytest.skip("not as root, who writes everywhere; test_rundir.py denies it another way")
    run.path.mkdir()
    run.path.chmod(0o500)
    with pytest.raises(OSError, match="base_8"):
        train(base_config(), name="base_8", data=shards, out=run.path, runtime=runtime)


@pytest.fixture(scope="module")
def with_val(tmp_path_factory):
    folder = tmp_path_factory.mktemp("val")
    pack(
        write_folder(folder / "pictures", 96, 16),
        folder / "shards",
        PackSettings(size=16, shards=8, val=0.2),
        workers=0,
    )
    return folder / "shards"


@pytest.fixture(scope="module")
def below(with_val, runtime, tmp_path_factory):
    return train(
        base_config(), name="base_8", data=with_val, out=tmp_path_factory.mktemp("below") / "b", runtime=runtime
    )


class TestValidation:
    def test_its_loss_is_in_log_manifest_and_bundle(self, with_val, below, run, runtime):
        config = sr_config(images=24)
        train(config, name="sr_16", data=with_val, out=run.path, runtime=runtime, options=Options(lower=below))
        line = json.loads(run.metrics.read_text().splitlines()[-1])
        assert 0 < line["val_loss"] < line["val_loss_generated"] < 10
        assert read_manifest(run.latest())["val_loss"] == line["val_loss"]
        assert read_sidecar(run.bundle).provenance.scores == {"val_loss": line["val_loss"]}
        averaged = make_validation(config, with_val, runtime.device, below).losses(load_bundle(run.bundle))
        assert averaged == pytest.approx({key: line[key] for key in averaged}, rel=1e-5)  # of what is shipped
        assert averaged.keys() == {"val_loss", "val_loss_generated"}

    def test_it_is_the_training_loss_of_held_out_pictures_and_always_the_same(self, with_val, runtime):
        config = base_config()
        torch.manual_seed(0)
        stage = loop.build_stage(config).eval()
        validation = make_validation(config, with_val, runtime.device, None)
        assert sum(len(batch) for batch in validation.batches) > 10
        found = [validation.losses(stage) for _ in range(2)]
        assert found[0] == found[1]
        with torch.no_grad():
            other = torch.cat([stage(batch, 0).per_image for batch in validation.batches])
        error = other.std() / len(other) ** 0.5
        assert abs(found[0]["val_loss"] - other.mean()) < 5 * error

    def test_it_does_not_change_training(self, with_val, run, runtime):
        ends = []
        for num in (0, 256):
            out = run.path.with_name(f"val_{num}")
            train(
                base_config(val_images=num, net={"dropout": 0.3}),
                name="base_8",
                data=with_val,
                out=out,
                runtime=runtime,
            )
            ends.append(load_file(RunDir(out).latest() / "state.safetensors"))
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])

    def test_the_stage_below_must_fit(self, with_val, below, run, runtime):
        config = sr_config(images=24).model_copy(update={"low_res": 4, "aug": AugConfig()})
        with pytest.raises(ValueError, match=r"--lower .* makes 8 px, this stage takes low_res 4"):
            train(config, name="sr_16", data=with_val, out=run.path, runtime=runtime, options=Options(lower=below))
