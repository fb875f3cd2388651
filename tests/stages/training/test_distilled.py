"""A stage that learns towards an objective of its own, from a frozen teacher (tests/stages/progressive.py)."""

import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from data.files import file_sha256
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.bundle import WEIGHTS, load_bundle
from stages.config import BaseConfig, SampleConfig
from stages.diffusion.samplers import SAMPLERS
from stages.frozen import Frozen
from stages.objectives.denoising import DENOISING
from stages.objectives.denoising_config import DenoisingConfig
from stages.objectives.objective import Levels
from stages.texts import as_values
from stages.training.loop import train
from stages.training.norms import activation_norms
from stages.training.runtime import Options
from stages.training.validate import held_out, make_validation
from tests.calling import call
from tests.stages.progressive import Progressive, progressive, student, student_config
from tests.stages.tiny import shapes_batch
from tests.stages.training.test_run import assert_equal_runs, loss_curve
from train import main

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")


@pytest.fixture(autouse=True, scope="module")
def _registered():
    with progressive():
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> BaseConfig:
    return student_config(tmp_path_factory.mktemp("teacher") / "bundle")


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> Path:
    """Shards with pictures to validate on."""
    folder = tmp_path_factory.mktemp("held")
    pack(
        write_folder(folder / "pictures", 60, 16),
        folder / "shards",
        PackSettings(size=16, shards=10, val=0.2),
        workers=0,
    )
    return folder / "shards"


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(config, held, runtime, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("student") / "run"
    train(config, name="student", data=held, out=out, runtime=runtime, options=Options(norms=True))
    return out


def changed(config: BaseConfig, **of_objective: str) -> BaseConfig:
    objective = config.train.objective.model_copy(update=of_objective)
    return config.model_copy(update={"train": config.train.model_copy(update={"objective": objective})})


def test_the_target_is_where_two_steps_of_the_teacher_end(config):
    stage, objective, batch = student(config), config.train.objective.build(), shapes_batch(4, 8)
    x = 5.0 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    levels = objective.levels(stage, torch.zeros(4, dtype=torch.float64)).to(x)
    target = objective.target(x, levels, batch.cond)
    grid = config.sample.sigmas
    assert_close(torch.stack([levels.sigma, levels.end]), grid[:2, None].expand(2, 4).float())
    sigmas = torch.tensor([levels.sigma[0], levels.mid[0], levels.end[0], 0], dtype=torch.float64)
    euler = SAMPLERS["euler"]
    steps = euler(x, sigmas, lambda purpose, shape: torch.zeros(shape), euler.defaults)
    query = next(steps)
    with torch.no_grad():
        for _ in range(2):
            query = steps.send(load_bundle(config.train.objective.teacher).denoise(query.x, query.sigma, batch.cond))
    share = levels.end[0] / levels.sigma[0]
    assert_close(target + share * (x - target), query.x, atol=1e-5, rtol=1e-5)


def test_levels_are_moved_as_they_are(config):
    """Numbers to the dtype of x0; what a subclass counts stays whole."""

    @dataclass(frozen=True, kw_only=True)
    class Counted(Levels):
        step: Tensor

    drawn = Counted(sigma=torch.ones(2, dtype=torch.float64), step=torch.tensor([3, 2**40])).to(torch.zeros(1))
    assert (drawn.sigma.dtype, drawn.step.tolist()) == (torch.float32, [3, 2**40])


class TestAWholeRun:
    def test_the_bundle_is_the_students_alone(self, config, finished):
        weights = load_file(finished / "bundle" / WEIGHTS)
        assert weights.keys() == student(config).state_dict().keys()
        assert load_bundle(finished / "bundle").config == config
        assert any(not torch.equal(weights[name], tensor) for name, tensor in student(config).state_dict().items())

    def test_resumed_it_ends_in_the_same_bits(self, config, finished, held, runtime, tmp_path, monkeypatch):
        first = config.model_copy(update={"train": config.train.model_copy(update={"images": 24})})
        train(first, name="student", data=held, out=tmp_path / "run", runtime=runtime)
        monkeypatch.setattr(Progressive, "begin", lambda *_: pytest.fail("a resumed run began anew"))
        Frozen.loaded.clear()  # a new process has not loaded the teacher yet
        train(config, name="student", data=held, out=tmp_path / "run", runtime=runtime)
        assert_equal_runs(tmp_path / "run", finished)

    def test_it_begins_from_its_teacher(self, config, finished, held, runtime, tmp_path, monkeypatch):
        """The first loss is that of the teacher's own weights: far below a random start's."""
        monkeypatch.setattr(Progressive, "begin", lambda *_: None)
        train(config, name="student", data=held, out=tmp_path / "run", runtime=runtime)
        curve, random = (loss_curve(run) for run in (finished, tmp_path / "run"))
        assert curve[0]["loss"] < 0.5 * random[0]["loss"]

    def test_another_teacher_is_another_run(self, config, finished, held, runtime):
        moved = changed(config, sha256="0" * 64)
        with pytest.raises(ValueError, match=r"sha256 is .*000000000000... is asked for"):
            train(moved, name="student", data=held, out=finished, runtime=runtime)
        plain = config.model_copy(update={"train": config.train.model_copy(update={"objective": DenoisingConfig()})})
        with pytest.raises(ValueError, match=r"train.objective.kind was 'progressive', is 'denoising'"):
            train(plain, name="student", data=held, out=finished, runtime=runtime)

    def test_it_is_judged_by_its_own_objective(self, config, finished, held, runtime):
        """On held-out pictures: the loss against the teacher, not against the pictures."""
        validation = make_validation(config, held, runtime.device, None)
        student_now = load_bundle(finished / "bundle")
        told = [line["val_loss"] for line in metrics(finished) if "val_loss" in line]
        assert validation.losses(student_now)["val_loss"] == pytest.approx(told[-1], rel=1e-4)
        assert replace(validation, objective=DENOISING).losses(student_now)["val_loss"] > 2 * told[-1]

    def test_magnitudes_are_those_at_its_levels(self, config, finished, held):
        pictures, now = next(held_out(config, held, 16)), load_bundle(finished / "bundle")
        last = {key: value for key, value in metrics(finished)[-1].items() if key.startswith("activation_rms/")}
        objective = config.train.objective.build()
        assert last == pytest.approx(activation_norms(now, pictures, objective=objective), rel=1e-4)
        assert last != pytest.approx(activation_norms(now, pictures), rel=1e-2)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("teacher", "missing; copy there"),
        ("sha256", "is asked for"),
        ("sampler", "set it to euler"),
        ("num_steps", "write the same in both"),
    ],
)
def test_what_an_objective_lacks_is_told_before_anything_is_written(config, shards, runtime, tmp_path, what, told):
    if what in ("sampler", "num_steps"):
        sample = SampleConfig() if what == "sampler" else SampleConfig(sampler="euler", num_steps=4)
        wrong = config.model_copy(update={"sample": sample})
    else:
        wrong = changed(config, **{what: str(tmp_path / "none") if what == "teacher" else "0" * 64})
    with pytest.raises(ValueError, match=told) as caught:
        train(wrong, name="student", data=shards, out=tmp_path / "run", runtime=runtime)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_on_the_command_line(config, shards, tmp_path, capsys):
    """The YAML names it; what it lacks is one line and exit code 2."""
    text = {"name": "tiny", "stages": {"base_8": as_values(config)}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(text))
    command = (tmp_path / "tiny.yaml", "base_8", "--data", shards, "--out", tmp_path / "out", "--engine", "local")
    for override, told in (
        (f"teacher={tmp_path}", f"{tmp_path}/ema.safetensors: missing"),
        ("sha256=x", "stages.base_8.train.objective.sha256: String should match pattern"),
        ("kind=progresive", "stages.base_8.train.objective: Input tag 'progresive' found"),
    ):
        assert call(main, *command, "--device", "cpu", f"stages.base_8.train.objective.{override}") == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out" / "base_8").exists()


def test_a_text_names_the_objective_where_it_is_not_the_first(config):
    written = as_values(config)
    assert written["train"]["objective"]["kind"] == "progressive"
    assert BaseConfig.model_validate(written, strict=False) == config
    values = config.model_dump(exclude={"train": {"objective"}})
    assert BaseConfig.model_validate(values).train.objective == DenoisingConfig()
    values["train"]["objective"] = {}
    assert BaseConfig.model_validate(values).train.objective == DenoisingConfig()


class TestFrozen:
    @pytest.fixture
    def drawn(self, tmp_path) -> Frozen[nn.Linear]:
        """A network whose loading draws random numbers."""
        (tmp_path / "weights").write_bytes(b"2")
        return Frozen(tmp_path / "weights", file_sha256(tmp_path / "weights"), load_linear)

    def test_a_handle_is_no_part_of_a_module_and_is_never_copied(self, drawn):
        stage = nn.Linear(2, 2)
        stage.teacher = drawn
        drawn.on("cpu")
        copied = deepcopy(stage)
        assert copied.teacher is drawn
        assert len(list(copied.modules())) == 1
        assert drawn.on(CPU) is drawn.on("cpu")

    def test_nothing_of_the_first_use_reaches_the_network_nor_the_other_way_round(self, drawn):
        Frozen.loaded.clear()
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        with torch.inference_mode(), torch.device("meta"):
            network = drawn.on("cpu")
        assert torch.equal(torch.rand(1), expected)
        assert (network.weight.device, network.training, network.weight.requires_grad) == (CPU, False, False)
        network(torch.ones(1, 2, requires_grad=True)).sum().backward()  # inference tensors could not


def load_linear(path: Path) -> nn.Linear:
    return nn.Linear(2, int(path.read_bytes()))


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_deepspeed_does_what_the_local_engine_does(tmp_path):
    """At ZeRO 0, 2 and 3: the updates of one process, and what it saves and averages, the student's weights alone."""
    command = [sys.executable, "-m", "tests.stages.training.distilled_worker", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    local = report.pop("local")
    assert len(report) == 3
    names = load_file(tmp_path / "teacher" / WEIGHTS).keys()
    for name, losses in report.items():
        assert losses == pytest.approx(local, rel=1e-4)
        for what in ("weights", "average"):
            theirs, own = (load_file(tmp_path / each / f"{what}.safetensors") for each in (name, "local"))
            assert theirs.keys() == own.keys() == names
            assert_close(theirs, own, rtol=1e-3, atol=1e-4)
