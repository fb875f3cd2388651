"""The list of runs: states by real locks of real processes, numbers by hand, damage left out, a picture with curves in it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import runs
from stages.training.rundir import RunDir
from tests.stages.tiny import base_config

ROOT = Path(__file__).parents[2]


def make(path: Path, lines: list[dict], images: int = 48) -> RunDir:
    """A run directory with these log lines."""
    made = RunDir(path)
    made.open(base_config(images=images), "data")
    made.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


def line(nimg: int, **more: float | None) -> dict:
    return {"nimg": nimg, "loss": 1 / nimg, "grad_norm": 0.5, "img_per_s": 8.0} | more


def listed(folder: Path, capsys) -> dict[str, dict]:
    runs.main(folder, as_json=True)
    return {each["name"]: each for each in json.loads(capsys.readouterr().out)}


def test_states_and_numbers(tmp_path, capsys):
    make(tmp_path / "a" / "done", [line(24, val_loss=0.3), line(48, val_loss=None)])
    stopped = make(tmp_path / "a" / "stopped", [line(8)])
    (stopped.checkpoints / "nimg-0000000008").mkdir()
    (stopped.checkpoints / "nimg-0000000008" / "state.safetensors").write_bytes(bytes(1000))
    make(tmp_path / "empty", []).metrics.unlink()
    found = listed(tmp_path, capsys)
    assert {name: each["state"] for name, each in found.items()} == {
        "a/done": "done", "a/stopped": "stopped", "empty": "empty",
    }  # fmt: skip
    done = found["a/done"]
    assert (done["nimg"], done["images"], done["loss"], done["val_loss"]) == (48, 48, 1 / 48, 0.3)
    assert (done["img_per_s"], done["checkpoint_bytes"]) == (8.0, 0)
    assert 0 <= done["age_s"] < 60
    assert found["a/stopped"]["checkpoint_bytes"] == 1000
    assert found["empty"]["loss"] is found["empty"]["age_s"] is None


HOLD = """
import sys
from pathlib import Path
from stages.training.rundir import RunDir
with RunDir(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(run: RunDir) -> subprocess.Popen:
    """A process that holds the lock of a run, as training does."""
    command = [sys.executable, "-c", HOLD, str(run.path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_run_is_running_while_its_process_lives_and_asking_does_not_disturb_it(tmp_path, capsys):
    run = make(tmp_path / "run", [line(8)])
    with hold(run) as holder:
        for _ in range(3):
            assert listed(tmp_path, capsys)["run"]["state"] == "running"
        with pytest.raises(ValueError, match="another run works there"), run.lock():
            pass
        holder.kill()
    assert listed(tmp_path, capsys)["run"]["state"] == "stopped"
    assert (run.path / "run.lock").exists()
    with run.lock():
        pass


def test_a_line_that_is_being_written_waits_for_the_next_look(tmp_path, capsys):
    run = make(tmp_path / "run", [line(8)])
    with run.metrics.open("a") as file:
        file.write('{"nimg": 16, "lo')
    assert listed(tmp_path, capsys)["run"]["nimg"] == 8


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", b'{"nimg": 8}\nnonsense\n{"nimg": 16}\n'),
        ("metrics.jsonl", b"[1, 2]\n"),
        ("metrics.jsonl", b'{"loss": 8}\n'),
        ("metrics.jsonl", b"\xff\xfe\n"),
        ("config.json", b"{"),
        ("config.json", b'{"config": {}}'),
        ("config.json", b"[]"),
    ],
)
def test_a_damaged_folder_is_named_and_left_out(tmp_path, capsys, name, content):
    make(tmp_path / "good", [line(8)])
    (make(tmp_path / "bad", [line(8)]).path / name).write_bytes(content)
    runs.main(tmp_path)
    told = capsys.readouterr()
    assert f"{tmp_path / 'bad'}: left out, not readable as a run" in told.err
    assert len(told.err.splitlines()) == 1
    assert name in told.err
    assert "; restore it" in told.err or "; remove it" in told.err
    assert "good" in told.out
    assert "bad" not in told.out


def test_the_table_is_aligned_and_says_what_a_person_wants(tmp_path, capsys):
    make(tmp_path / "base_16", [line(36, loss=0.25, val_loss=0.5)])
    long_ago = make(tmp_path / "sr_64", [line(48)])
    os.utime(long_ago.metrics, (time.time() - 7300,) * 2)
    runs.main(tmp_path)
    head, first, second = capsys.readouterr().out.splitlines()
    assert len({len(row) for row in (head, first, second)}) == 1
    assert first.split()[:9] == ["base_16", "stopped", "36", "48", "75", "%", "8", "0.2500", "0.5000"]
    assert second.split()[:6] == ["sr_64", "done", "48", "48", "100", "%"]
    assert "2 h ago" in second


@pytest.mark.parametrize("there", [True, False])
def test_nothing_to_list_is_one_line(tmp_path, there):
    with pytest.raises(ValueError, match="no run directory in it" if there else "no such folder"):
        runs.main(tmp_path if there else tmp_path / "nowhere")


def test_a_missing_matplotlib_is_one_line(tmp_path, monkeypatch):
    make(tmp_path / "run", [line(8)])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        runs.main(tmp_path, plot=tmp_path / "runs.png")


def test_curves_of_all_runs(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    for name, count in (("long", 60), ("short", 3), ("empty", 0)):
        make(tmp_path / name, [line(8 * k, val_loss=1 / k if k % 6 == 0 else None) for k in range(1, count + 1)])
    runs.main(tmp_path, plot=tmp_path / "runs.png")
    with Image.open(tmp_path / "runs.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
        assert picture.size == (1440, 900)
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} & colours >= {(31, 119, 180), (255, 127, 14)}


def test_smoothing_keeps_a_constant_and_follows_a_step():
    assert runs.smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    assert runs.smoothed([0.0] + [1.0] * 50)[-1] == pytest.approx(1, abs=0.01)


def test_as_a_command(tmp_path):
    make(tmp_path / "run", [line(8)])
    for arguments, code in (([tmp_path], 0), ([tmp_path / "nowhere"], 2)):
        command = [sys.executable, "-m", "stages.runs", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
