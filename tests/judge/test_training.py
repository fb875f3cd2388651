"""`train.score_every`: a stage is scored while it is trained, and trains as if it were not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cascade.judge.training import stage_score
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.read.shards import read_split
from data.shapes import write_folder
from stages import runs
from stages.build import build_stage
from stages.conditions.original_size import read
from stages.config import CondConfig, StageConfig
from stages.texts import as_values
from stages.training.loop import train
from stages.training.runtime import Options, Runtime
from tests.stages.tiny import base_config, sr_config

pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")
ROOT = Path(__file__).parents[2]
NAMES = {"score_match", "score_sharpness", "score_grain", "score_swd"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    settings = PackSettings(size=16, shards=8, val=0.2)
    pack(write_folder(folder / "pictures", 64, 16), folder / "shards", settings, workers=0)
    return folder / "shards"


def trained(config: StageConfig, shards, out, *, images: int = 48):
    """Its log lines, and the weights of its bundle."""
    runtime = Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
    config = config.model_copy(update={"train": config.train.model_copy(update={"images": images})})
    bundle = train(config, name="s", data=shards, out=out, runtime=runtime, options=Options(scoring=stage_score))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return lines, load_file(bundle / "ema.safetensors")


def scores_of(lines):
    return {line["nimg"]: {key: line[key] for key in sorted(line) if key.startswith("score_")} for line in lines}


@pytest.mark.parametrize("kind", ["base", "super_res"])
def test_scores_stand_in_the_log_and_change_nothing(kind, shards, tmp_path):
    make = base_config if kind == "base" else sr_config
    plain, weights = trained(make(), shards, tmp_path / "plain")
    scored, same = trained(make(score_every=16, score_images=8), shards, tmp_path / "scored")
    assert all(torch.equal(same[name], weight) for name, weight in weights.items())
    assert [line["loss"] for line in plain] == [line["loss"] for line in scored]
    found = scores_of(scored)
    assert {nimg for nimg, values in found.items() if values} == {16, 32, 48}
    assert set(found[48]) == NAMES  # KID wants 320 pictures
    assert 0 <= found[48]["score_match"] <= 1
    assert all(not values for values in scores_of(plain).values())


def test_a_resumed_run_logs_the_same_scores(shards, tmp_path):
    config = base_config(score_every=16, score_images=8, save_every=8)
    straight, _ = trained(config, shards, tmp_path / "straight")
    trained(config, shards, tmp_path / "parts", images=24)
    parts, _ = trained(config, shards, tmp_path / "parts")
    assert scores_of(parts)[48] == scores_of(straight)[48]
    assert scores_of(parts)[32] == scores_of(straight)[32]


def test_kid_is_among_them_where_pictures_suffice(tmp_path):
    pack(
        write_folder(tmp_path / "pictures", 700, 8),
        tmp_path / "shards",
        PackSettings(size=8, shards=8, val=0.5),
        workers=0,
    )
    config = base_config(score_every=16, images=16)
    lines, _ = trained(config, tmp_path / "shards", tmp_path / "run", images=16)
    found = scores_of(lines)[16]
    assert found["score_kid"] > 5 * found["score_kid_error"] > 0  # an untrained stage paints no shapes


@pytest.mark.parametrize("said", [None, (16, 16)])
def test_of_each_picture_the_network_is_told_its_own_original_size(said, tmp_path):
    """Its height and width before it was packed; where the settings say a size, that one for all."""
    (tmp_path / "pictures").mkdir()
    for k in range(20):
        Image.new("RGB", (24 + k, 20), (12 * k, 0, 0)).save(tmp_path / "pictures" / f"{k}.png")
    pack(tmp_path / "pictures", tmp_path / "shards", PackSettings(size=16, shards=2, val=0.5), workers=0)
    batches = list(read_split(str(tmp_path / "shards"), "val", batch=4, resolution=8, original_sizes=True))
    sizes = {tuple(size) for batch in batches for size in batch.cond.value("original_size").tolist()}
    assert len(sizes) == sum(len(batch) for batch in batches) >= 4
    config = base_config(score_images=20)
    sample = config.sample.model_copy(update={"original_size": said})
    cond = CondConfig(original_size={})
    stage = build_stage(config.model_copy(update={"cond": cond, "sample": sample})).eval()
    told = set()
    stage.net.register_forward_pre_hook(
        lambda _, asked: told.update(map(tuple, asked[2].value("original_size").tolist()))
    )
    stage_score(stage.config, str(tmp_path / "shards"))(stage)
    expected = torch.tensor(sorted(sizes) if said is None else [said])
    assert told == set(map(tuple, read(expected, stage.config.resolution).tolist()))


def test_no_held_out_pictures_is_one_line(tmp_path):
    pack(write_folder(tmp_path / "pictures", 8, 16), tmp_path / "shards", PackSettings(size=16, shards=8), workers=0)
    with pytest.raises(ValueError, match=r"train\.score_every 16: 0 held-out pictures, at least 4 .* --val 0\.05"):
        stage_score(base_config(score_every=16), str(tmp_path / "shards"))


def test_texts_of_configs_do_not_name_what_is_off():
    assert "score_every" not in as_values(base_config())["train"]
    assert as_values(base_config(score_every=8))["train"]["score_every"] == 8


def test_runs_show_the_scores(shards, tmp_path, capsys):
    trained(base_config(score_every=16, score_images=8), shards, tmp_path / "scored")
    trained(base_config(), shards, tmp_path / "plain", images=8)
    capsys.readouterr()
    runs.main(tmp_path, plot=tmp_path / "runs.png")
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "match"
    assert next(row.split()[-1] for row in rows) == "-"
    assert 0 <= float(rows[1].split()[-1]) <= 1
    assert (tmp_path / "runs.png").stat().st_size > 10_000
    runs.main(tmp_path, as_json=True)
    assert [each["match"] is None for each in json.loads(capsys.readouterr().out)] == [True, False]


WANDB = """
import sys
from pathlib import Path
import torch
from cascade.judge.training import stage_score
from stages.training.loop import train
from stages.training.runtime import Options, Runtime
from tests.stages.tiny import base_config
torch.set_num_threads(1)
runtime = Runtime(engine="local", rank=0, world=1, device=torch.device("cpu"))
options = Options(scoring=stage_score, wandb="cascades")
config = base_config(score_every=16, score_images=8)
train(config, name="s", data=sys.argv[1], out=Path(sys.argv[2]), runtime=runtime, options=options)
"""


@pytest.mark.slow
def test_scores_in_wandb_offline(shards, tmp_path):
    """The real package, offline: every score of metrics.jsonl stands in the run's file, too."""
    pytest.importorskip("wandb")
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WANDB, str(shards), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = b"".join(path.read_bytes() for path in (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    found = scores_of(lines)
    assert {nimg for nimg, values in found.items() if values} == {16, 32, 48}
    for values in found.values():
        for name, value in values.items():
            assert name.encode() in logged
            assert json.dumps(value).encode() in logged
