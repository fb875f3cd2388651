"""All stages of a cascade at once: what is started, what is refused, and real jobs through failure, signals and resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cascade.config import load_config
from cascade.launch import spread, stage_commands
from cascade.train.slurm import batch_script
from stages.bundle import read_sidecar

ROOT = Path(__file__).parents[2]


def plans(*, data=("shards",), stages=(), nproc=1, more=(), cascade="emoji"):
    config = load_config(cascade)
    return stage_commands(
        config, cascade, data=list(data), out=Path("out"), stages=list(stages), nproc=nproc, more=list(more)
    )


class TestPlans:
    def test_all_stages_with_the_same_shards(self):
        assert [plan.arguments for plan in plans(more=["--zero=1"])] == [
            ("emoji", name, "--data", "shards", "--out", "out", "--zero=1") for name in ("base_16", "sr_64", "sr_128")
        ]

    def test_named_stages_in_the_order_of_the_chain_with_their_gpus_and_shards(self):
        made = plans(stages=["sr_128=4", "base_16=0,1"], data=["sr_128=big", "small"])
        assert [(plan.stage, plan.processes, plan.devices, plan.arguments[3]) for plan in made] == [
            ("base_16", 2, ("0", "1"), "small"),
            ("sr_128", 1, ("4",), "big"),
        ]

    def test_an_address_with_an_equals_sign_is_no_stage(self):
        assert plans(data=["s3://bucket/day=1"])[0].arguments[3] == "s3://bucket/day=1"

    def test_free_gpus_are_spread(self):
        made = spread(plans(stages=["base_16=0,1", "sr_64", "sr_128"]), ["0", "1", "2", "3", "4", "5"])
        assert [plan.devices for plan in made] == [("0", "1"), ("2", "3"), ("4", "5")]
        assert [plan.processes for plan in made] == [2, 2, 2]
        assert spread(plans(nproc=2), []) == plans(nproc=2)

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"stages": ["sr_65"]}, r"no stage 'sr_65'.*did you mean sr_64\?"),
            ({"data": ["sr_65=x"]}, r"no stage 'sr_65'"),
            ({"data": ["base_16=x"]}, r"stage sr_64 has no shards; add --data sr_64=SHARDS"),
            ({"data": ["a", "b"]}, r"--data a and --data b are both for all stages"),
            ({"stages": ["base_16=0,1", "sr_64=1"]}, r"GPU 1 is given to stage base_16 and to stage sr_64"),
        ],
    )
    def test_mistakes_are_told(self, wrong, told):
        with pytest.raises(ValueError, match=told):
            plans(**wrong)

    def test_too_few_gpus_are_told(self):
        with pytest.raises(ValueError, match="3 stages wait for GPUs and 2 of 2 are free"):
            spread(plans(), ["0", "1"])


def command(small: Path, shards: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "cascade.launch", str(small), "--data", str(shards), "--out", str(out), *more]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def launch(*arguments) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=280, check=False
    )


def nimg(out: Path, stage: str) -> int:
    return read_sidecar(out / stage / "bundle").provenance.nimg


def until(condition, seconds: float = 120) -> None:
    """Waits for something that another process does."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.matrix
def test_two_stages_at_once_then_nothing_to_do(small, shards, tmp_path):
    done = launch(small, shards, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    assert list(json.loads((out / "cascade.json").read_text())["stages"]) == ["base_8", "sr_16"]
    assert nimg(out, "base_8") == nimg(out, "sr_16") == 32
    lines = done.stdout.splitlines()
    assert lines[:2] == ["base_8: running, no image yet", "sr_16: running, no image yet"]
    assert f"{out} can be sampled: python sample.py --cascade {out} --until sr_16" in lines
    assert any(line.startswith("sr_16: ended, 32 of 32 img, loss ") for line in lines)
    assert (out / "base_8.log").read_text().rstrip().endswith(f"bundle: {out / 'base_8' / 'bundle'}")
    again = launch(small, shards, out)
    assert again.returncode == 0, again.stderr
    assert "nothing to do, 32 of 32 images are done" in (out / "sr_16.log").read_text()


@pytest.mark.slow
@pytest.mark.matrix
def test_a_stage_that_fails_stops_no_other_and_is_named(small, shards, tmp_path):
    out = tmp_path / "out"
    done = launch(small, shards, out, "--data", f"base_8={tmp_path / 'nowhere'}")
    assert done.returncode == 2
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told.startswith(f"error: stage base_8 failed ({out / 'base_8.log'}): error: ")
    assert "nowhere" in told
    assert nimg(out, "sr_16") == 32
    assert "can be sampled" not in done.stdout  # not without its base


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "processes", "code"), [(signal.SIGTERM, 1, 0), (signal.SIGINT, 2, 130)])
def test_a_signal_makes_all_save_and_the_same_command_goes_on(small, shards, tmp_path, number, processes, code):
    """Under torch's launcher, too, which would not wait for a save by itself."""
    out, more = tmp_path / "out", ["--nproc", str(processes), "--", "--images=100000"]
    running = subprocess.Popen(
        command(small, shards, out, *more), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until(lambda: all((out / stage / "bundle" / "stage.json").exists() for stage in ("base_8", "sr_16")))
    running.send_signal(number)
    stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == code, stderr.decode() + stdout.decode()
    stopped = {stage: nimg(out, stage) for stage in ("base_8", "sr_16")}
    for stage, seen in stopped.items():
        assert 16 <= seen < 100_000
        assert f"told to stop, saved at {seen:,} images" in (out / f"{stage}.log").read_text()
        lines = (out / stage / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["nimg"] == seen
    goal = max(stopped.values()) + 16
    done = launch(small, shards, out, "--nproc", str(processes), "--", f"--images={goal}")
    assert done.returncode == 0, done.stderr + (out / "base_8.log").read_text()[-2000:]
    assert nimg(out, "base_8") >= goal


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_the_tiny_emoji_cascade(tmp_path):
    """The shipped YAML with a few dozen images; then a picture of it."""
    packed = [
        sys.executable,
        "-m",
        "data.pack",
        "data/emoji64",
        str(tmp_path / "shards"),
        "--size",
        "64",
        "--text-encoder",
        "minilm",
    ]
    subprocess.run(packed, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, timeout=280)
    overrides = [
        f"stages.{stage}.train.{key}"
        for stage, batch in (("base_16", 16), ("sr_64", 8))
        for key in (f"batch={batch}", "images=32", "workers=0", "val_images=8", "grid_every=1000")
    ]
    done = launch("emoji_tiny", tmp_path / "shards", tmp_path / "out", "--", *overrides)
    assert done.returncode == 0, done.stderr
    assert nimg(tmp_path / "out", "base_16") == nimg(tmp_path / "out", "sr_64") == 32
    shown = next(line for line in done.stdout.splitlines() if line.endswith("--until sr_64"))
    sample = shown.partition("python ")[2].split()
    arguments = [sample[0], "red heart", *sample[1:], "--num", "1", "--out", str(tmp_path / "out.png")]
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, check=True, timeout=200)
    assert (tmp_path / "out.png").stat().st_size > 100


class TestSlurm:
    def script(self, tmp_path: Path, arguments: list[str]) -> Path:
        path = tmp_path / "job.sh"
        path.write_text(
            batch_script("small", [("a", arguments), ("b", ["never"])], out=tmp_path / "out", nodes=1, tasks=2)
        )
        return path

    def test_it_is_bash_and_has_an_element_a_stage(self, tmp_path):
        path = self.script(tmp_path, ["emoji", "base_16", "--zero=1"])
        subprocess.run(["bash", "-n", str(path)], check=True)
        text = path.read_text()
        for option in ("--array=0-1", "--ntasks-per-node=2", "--signal=B:USR1@120", "--requeue"):
            assert f"#SBATCH {option}\n" in text

    def test_white_space_in_a_path_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="white space"):
            self.script(tmp_path, ["emoji", "--out", "my runs"])

    @pytest.mark.slow
    @pytest.mark.matrix
    @pytest.mark.parametrize("told", [True, False])
    def test_it_trains_saves_on_usr1_and_queues_itself_again(self, small, shards, tmp_path, told):
        """Two tasks of real training on this machine. Stand-ins for SLURM: srun starts the tasks and forwards the signal,
        scontrol names this host and notes the requeue."""
        out, bin_dir = tmp_path / "out", tmp_path / "bin"
        images = "--images=100000" if told else "--images=32"
        path = self.script(tmp_path, [str(small), "base_8", "--data", str(shards), "--out", str(out), images])
        bin_dir.mkdir()
        stand_ins = {
            "srun": """shift; pids=(); trap 'kill -USR1 "${pids[@]}"' USR1
for k in 0 1; do SLURM_PROCID=$k SLURM_LOCALID=$k SLURM_NTASKS=2 "$@" & pids+=($!); done
code=0; for pid in "${pids[@]}"; do while true; do wait "$pid"; c=$?; [ $c = 138 ] || break; done; [ $c = 0 ] || code=$c; done
exit $code""",
            "scontrol": f'if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {tmp_path}/queued; fi',
            "python": f'exec "{sys.executable}" "$@"',
        }
        for name, text in stand_ins.items():
            (bin_dir / name).write_text(f"#!/bin/bash\n{text}\n")
            (bin_dir / name).chmod(0o755)
        slurm = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here"}
        environment = ENVIRONMENT | slurm | {"PATH": f"{bin_dir}:{os.environ['PATH']}"}
        running = subprocess.Popen([shutil.which("bash"), str(path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        if told:
            until(lambda: (out / "base_8" / "bundle" / "stage.json").exists())
            running.send_signal(signal.SIGUSR1)
        _, stderr = running.communicate(timeout=200)
        assert running.returncode == 0, stderr.decode()[-2000:]
        assert (tmp_path / "queued").exists() == told
        assert nimg(out, "base_8") >= (16 if told else 32)
