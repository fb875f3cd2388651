"""train.py from end to end: what a run leaves, the same command again, Ctrl-C."""

import json

import pytest

import train
from tests.calling import call
from tests.commands.files import files
from tests.commands.processes import interrupt, start


def test_a_run_leaves_bundle_log_and_sample_grids(trained):
    assert json.loads((trained / "cascade.json").read_text())["name"] == "small"
    for stage in ("base_8", "sr_16"):
        found = files(trained / stage)
        wanted = ("config.json", "environment.json", "metrics.jsonl", "bundle/stage.json", "bundle/ema.safetensors")
        assert set(wanted) <= set(found)
        assert "samples/nimg-0000000032.png" in found
        assert not [name for name in found if name.endswith((".part", ".tmp"))]
        lines = [json.loads(line) for line in (trained / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["nimg"] for line in lines] == [8, 16, 24, 32]


def test_magnitudes_are_logged_where_they_are_asked_for(trained, small, shards, tmp_path):
    assert call(train.main, small, "base_8", "--data", shards, "--out", tmp_path, "--norms") == 0
    logged = (tmp_path / "base_8" / "metrics.jsonl").read_text()
    assert '"weight_rms/net.conv_in.weight"' in logged
    assert '"activation_rms/net"' in logged
    assert "_rms/" not in (trained / "base_8" / "metrics.jsonl").read_text()


def test_the_same_command_again_has_nothing_to_do(trained, small, shards, capsys):
    before = [path.stat().st_mtime_ns for path in sorted((trained / "base_8" / "bundle").iterdir())]
    assert call(train.main, small, "base_8", "--data", shards, "--out", trained) == 0
    assert "nothing to do, 32 of 32 images are done" in capsys.readouterr().out
    assert before == [path.stat().st_mtime_ns for path in sorted((trained / "base_8" / "bundle").iterdir())]


@pytest.mark.parametrize("flag", ["--local_rank", "--local-rank"])
def test_options_that_launchers_add_are_accepted(trained, small, shards, capsys, flag):
    assert call(train.main, small, "base_8", "--data", shards, "--out", trained, flag, "0") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_ctrl_c_while_training_and_the_same_command_goes_on(small, shards, tmp_path):
    out = tmp_path / "out"
    arguments = (small, "base_8", "--data", shards, "--out", out, "stages.base_8.train.workers=1")
    process = start("train.py", *arguments, "--images", 10**8)
    lines = interrupt(process, lambda: list((out / "base_8" / "checkpoints").glob("nimg-*[0-9]")))
    assert process.returncode == 130
    assert lines[-1] == "interrupted"
    assert "Traceback" not in "".join(lines)
    done = max(int(path.name[5:]) for path in (out / "base_8" / "checkpoints").glob("nimg-*[0-9]"))
    assert call(train.main, *arguments[:-1], "stages.base_8.train.workers=0", "--images", done + 16) == 0
    lines = [json.loads(line) for line in (out / "base_8" / "metrics.jsonl").read_text().splitlines()]
    assert [line["nimg"] for line in lines] == list(range(8, done + 17, 8))
