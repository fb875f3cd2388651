"""The comparison at equal budgets: its parts, and a guard: a short training must stay well ahead of the peers' stored scores."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cascade.judge.frechet import frechet_distance
from tests.bench.equal.clock import Budget
from tests.bench.equal.scores import floor
from tests.bench.equal.systems import SYSTEMS, chosen
from tests.bench.equal.worker import batches, chunks, warm_cosine

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "tests" / "bench"
STORED = BENCH / "equal_budget.json"  # rows of the short form: 60 s + 60 s
RATIO = {
    "kid": 0.1,
    "grain": 0.5,
}  # most that ours may have of the best peer's, after a third of its budget (was: 0.017, 0.22)
IMAGES = "2000,1000"  # about 20 s + 20 s of the core that the stored rows were made on


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, str(BENCH / "equal_budget.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_a_budget_is_processor_time_not_the_walls():
    budget = Budget(0.2)
    time.sleep(0.3)
    assert budget.used_s < 0.1
    assert not budget.is_over
    while not budget.is_over:
        sum(range(10_000))
    assert budget.share == 1.0
    assert budget.used_s < 0.3


def test_batches_take_every_picture_once_an_epoch():
    pictures = torch.arange(10.0).view(10, 1, 1, 1)
    taken = torch.cat([*itertools.islice(batches(pictures, 4, flip=False, seed=0), 5)]).flatten()
    assert taken[:10].sort().values.tolist() == taken[10:].sort().values.tolist() == list(range(10))


def test_half_of_the_pictures_are_mirrored():
    pictures = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1000, 1, 1, 2)
    batch = next(batches(pictures, 1000, flip=True, seed=0))
    assert 400 < batch[..., 0].sum() < 600
    assert (batch.sum(dim=3) == 1).all()


def test_the_rate_rises_and_falls_to_zero_with_the_budget():
    assert warm_cosine(1.0, 0, 0.0, 10) == pytest.approx(0.1)
    assert warm_cosine(1.0, 9, 0.0, 10) == 1.0
    assert warm_cosine(1.0, 100, 0.5, 10) == pytest.approx(0.5)
    assert warm_cosine(1.0, 100, 1.0, 10) == pytest.approx(0.0)
    assert sum(chunks(101)) == 101


def test_the_floor_is_what_two_draws_of_a_gaussian_have():
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    draws = [torch.randn(400, 8, generator=generator, dtype=torch.float64) @ mixing + 3 for _ in range(32)]
    measured = sum(frechet_distance(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)) / 16
    assert floor(draws[0], 400) == pytest.approx(measured, rel=0.3)


def test_peers_and_raw_weights_share_their_runs():
    assert [each.name for each in chosen("ours, imagen")] == ["ours", "imagen"]
    for each in SYSTEMS.values():
        assert (BENCH / "equal" / each.worker).exists()
        assert each.runs in SYSTEMS
    for wrong in ("ours,stylegan", "ours,ours"):
        with pytest.raises(ValueError, match="--systems"):
            chosen(wrong)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("longer",), "longer: allowed are short and long"),
        (("--num", 100), "--num 100: the judge needs 320"),
        (("--seeds", "0,x"), "--seeds 0,x: whole numbers"),
        (("--systems", "gan"), "--systems gan: allowed are ours"),
        (("--images", "10,20"), "for ours alone"),
        (("--base-s", -1), "seconds"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, told):
    done = command("--out", tmp_path / "equal", *arguments)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert not (tmp_path / "equal").exists()


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_a_short_training_stays_ahead_of_the_peers_and_is_resumed(tmp_path):
    """The guard. Images are fixed, not seconds: a slow machine trains as long. Speed is watched by bench_update.py."""
    form = ("--out", tmp_path, "--systems", "ours", "--num", 320, "--images", IMAGES)
    done = command(*form)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "results.json").read_text())
    stored = {each["system"]: each for each in json.loads(STORED.read_text())}
    peers = [each for name, each in stored.items() if name != "ours"]
    for score, most in RATIO.items():
        assert row[score] < most * min(each[score] for each in peers), score
    assert (tmp_path / "grid.png").exists()

    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    again = command(*form)
    assert again.returncode == 0
    assert "..." not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in made} == made
    refused = command(*form[:-1], "2000,1008")
    assert refused.returncode == 2
    assert "images 2000,1000 is now 2000,1008" in refused.stderr


@pytest.mark.matrix
def test_the_worker_of_diffusers_trains_and_paints(tmp_path):
    """In this environment, which has diffusers for the tests; the command makes one of its own. All parts in one process, which
    imports once: they hand over files."""
    import numpy as np

    np.save(tmp_path / "train.npy", np.random.default_rng(0).integers(0, 256, (16, 3, 64, 64), dtype=np.uint8))
    paths = []
    for tuned, part in itertools.product((False, True), ("base", "sr", "sample")):
        out = tmp_path / str(tuned)
        out.mkdir(exist_ok=True)
        request = {
            "part": part,
            "data": str(tmp_path),
            "out": str(out),
            "budget_s": 0.5,
            "tuned": tuned,
            "num": 3,
            "steps": 2,
        }
        paths.append(out / f"{part}-request.json")
        paths[-1].write_text(json.dumps(request))
    code = "import runpy, sys\nworker, *paths = sys.argv[1:]\nfor path in paths:\n    sys.argv[1:] = [path]\n"
    code += "    runpy.run_path(worker, run_name='__main__')"
    folder = BENCH / "equal"
    line = [sys.executable, "-c", code, folder / "diffusers_peer.py", *paths]
    subprocess.run(line, check=True, env=os.environ | {"PYTHONPATH": str(folder)})
    for tuned in ("False", "True"):
        assert np.load(tmp_path / tuned / "samples.npy").shape == (3, 3, 64, 64)
        trained = json.loads((tmp_path / tuned / "sr.json").read_text())
        assert trained["images"] >= 8
        assert trained["cpu_s"] >= 0.5
