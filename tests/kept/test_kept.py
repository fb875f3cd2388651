"""What users of the first version have on their disks is opened by this one, and goes on: see make.py for what is kept.

Numbers may differ by what other processors round: losses by ROUNDING, pictures by one level of uint8.
"""

import json
import shutil
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sample
import stages.export
import stages.runs
from tests.calling import call
from tests.kept import make
from tests.kept.make import AT, FIRST
from tests.serve.serving import Client

ROUNDING = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore:::tensorboard")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A copy of what is kept; tests that change a part copy that again."""
    return shutil.copytree(FIRST, tmp_path_factory.mktemp("kept") / "first")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def holds(old: Any, new: Any, place: str = "") -> None:
    """Everything that was said still is; more may be."""
    if isinstance(old, dict):
        assert isinstance(new, dict), place
        for key, value in old.items():
            assert key in new, f"{place}.{key} is gone"
            holds(value, new[key], f"{place}.{key}")
    elif isinstance(old, list):
        assert isinstance(new, list), place
        assert len(new) == len(old), place
        for number, pair in enumerate(zip(old, new, strict=True)):
            holds(*pair, f"{place}[{number}]")
    else:
        assert old == new, place


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content))).astype(int)


def texts(content: bytes) -> dict[str, str]:
    """What a PNG says of itself."""
    return Image.open(BytesIO(content)).text


def assert_same_picture(old: bytes, new: bytes) -> None:
    """As large, at most one level apart, and nearly everywhere equal."""
    a, b = pixels(old), pixels(new)
    assert a.shape == b.shape
    assert abs(a - b).max() <= 1
    assert (a == b).mean() > 0.99


class TestRuns:
    @pytest.mark.parametrize(
        "run",
        [
            pytest.param(f"{name}/{stage}", marks=[pytest.mark.matrix] if name == "two" else [])
            for name, stages in make.RUNS.items()
            for stage in stages
        ],
    )
    def test_a_run_goes_on_with_the_losses_that_followed(self, kept, tmp_path, run):
        name, stage = run.split("/")
        out = shutil.copytree(kept / "runs" / name, tmp_path / name)
        before = (out / stage / "metrics.jsonl").read_text()
        make.trained(kept, name, stage, out)
        assert (out / stage / "metrics.jsonl").read_text().startswith(before)
        found, wanted = make.losses(out / stage), read(FIRST / "next.json")[run]
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert found[key] == pytest.approx(wanted[key], rel=ROUNDING), key

    def test_a_bundle_of_a_snapshot(self, kept, tmp_path):
        """It holds the very average that is stored there."""
        run = kept / "runs" / "alone" / "base_8"
        assert call(stages.export.main, run, tmp_path / "bundle", "--nimg", "16", "--half-life", "64") == 0
        stored = load_file(run / "snapshots" / "nimg-0000000016" / "ema-64.safetensors")
        for name, weight in load_file(tmp_path / "bundle" / "ema.safetensors").items():
            torch.testing.assert_close(weight, stored[name], rtol=1e-4, atol=1e-5)

    def test_they_are_listed(self, kept, capsys):
        assert call(stages.runs.main, kept / "runs") == 0
        told = capsys.readouterr().out
        assert all(f"{name}/{stage}" in told for name, stages_ in make.RUNS.items() for stage in stages_)
        assert told.count(f"{AT}") >= 3

    def test_their_bundles_paint(self, kept, tmp_path):
        told = ("--cascade", kept / "runs" / "alone", "--label", "2", "--num", "1", "--out", tmp_path / "x.png")
        assert call(sample.main, *told) == 0
        assert pixels((tmp_path / "x.png").read_bytes()).shape == (16, 16, 3)


class TestPictures:
    """Of a base stage and a super-resolution stage by class."""

    def test_the_same_command_paints_the_same(self, kept, tmp_path):
        assert call(sample.main, *make.painting(kept, tmp_path / "again")) == 0
        assert list(make.leaves(tmp_path / "again")) == list(make.leaves(FIRST / "pictures"))
        for name in make.leaves(FIRST / "pictures"):
            old, new = ((folder / name).read_bytes() for folder in (FIRST / "pictures", tmp_path / "again"))
            assert_same_picture(old, new)
            for key, text in texts(old).items():
                holds(json.loads(text), json.loads(texts(new)[key]), f"{name}: {key}")

    def test_a_folder_goes_on(self, kept, tmp_path):
        out = shutil.copytree(kept / "pictures", tmp_path / "out")
        (out / "000002.png").unlink()
        assert call(sample.main, *make.painting(kept, out)) == 0
        assert list(make.leaves(out)) == list(make.leaves(FIRST / "pictures"))

    @pytest.mark.parametrize("name", ["000003.png", "000001.base_8.png"])
    def test_a_picture_is_made_again_by_its_metadata(self, kept, tmp_path, name):
        told = ("--again", kept / "pictures" / name, "--cascade", kept / "cascades" / "class", "--device", "cpu")
        assert call(sample.main, *told, "--out", tmp_path / "again.png") == 0
        assert_same_picture((FIRST / "pictures" / name).read_bytes(), (tmp_path / "again.png").read_bytes())


class TestBulk:
    """By text."""

    def test_a_job_of_shards_goes_on(self, kept, tmp_path):
        whole, half = kept / "bulk" / "whole", shutil.copytree(kept / "bulk" / "half", tmp_path / "half")
        assert call(sample.main, *make.generating(kept, half)) == 0
        assert sorted(path.name for path in half.glob("*")) == sorted(path.name for path in whole.glob("*"))
        assert (half / "train-00000.tar").read_bytes() == (whole / "train-00000.tar").read_bytes()
        for path in sorted(whole.glob("*.tar")):
            old, new = members(path), members(half / path.name)
            assert old.keys() == new.keys()
            for name, content in old.items():
                if name.endswith(".png"):
                    assert_same_picture(content, new[name])
                elif name.endswith(".json"):
                    holds(json.loads(content), json.loads(new[name]), name)
                else:
                    assert content == new[name], name

    def test_another_request_is_refused(self, kept, tmp_path, capsys):
        half = shutil.copytree(kept / "bulk" / "half", tmp_path / "half")
        assert call(sample.main, *make.generating(kept, half), "--seed", "6") == 2
        assert "shards of a request with other seed are there" in capsys.readouterr().err

    def test_a_job_that_is_done_has_nothing_to_do(self, kept, tmp_path, capsys):
        whole = shutil.copytree(kept / "bulk" / "whole", tmp_path / "whole")
        assert call(sample.main, *make.generating(kept, whole)) == 0
        assert "nothing to do" in capsys.readouterr().err


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.fixture(scope="module")
def client(kept, tmp_path_factory) -> Iterator[Client]:
    """Of a server that goes on with the store."""
    serving = make.serve(kept, shutil.copytree(kept / "store", tmp_path_factory.mktemp("store") / "store"))
    yield serving.client
    serving.close()


class TestStore:
    @pytest.fixture
    def told(self) -> dict[str, Any]:
        return read(FIRST / "told.json")

    @pytest.mark.parametrize("state", ["finished", "held", "cancelled"])
    def test_a_job_is_as_it_was(self, client: Client, told, state):
        now = make.said_of(client, told[state]["id"])
        holds(told[state], now)
        assert now["job"]["state"] == state

    def test_pictures_are_as_they_were(self, client: Client, told):
        stages_ = [stage for state in ("finished", "held") for stage in told[state]["job"]["stages"]]
        urls = [url for stage in stages_ for url in stage["urls"]]
        kept_bytes = sorted(path.read_bytes() for path in (FIRST / "store" / "pictures").iterdir())
        assert sorted(client.get(url).content for url in urls) == kept_bytes

    def test_the_list_is_as_it_was(self, client: Client, told):
        listed = client.get("/v1/jobs").json()["jobs"]
        old = told["listed"]["jobs"]
        holds(old, [job for job in listed if job["id"] in {each["id"] for each in old}])

    def test_what_was_removed_is_gone(self, client: Client, told):
        assert client.get(f"/v1/jobs/{told['removed']['id']}").status_code == 410

    def test_held_pictures_are_refined_to_what_an_undisturbed_job_made(self, client: Client, told):
        answer = client.post(f"/v1/jobs/{told['held']['id']}/refine", json={"pick": [1, 2]})
        assert answer.status_code == 202, answer.text
        assert client.finish(answer.json()["id"]) == "finished"
        new = client.get(f"/v1/jobs/{answer.json()['id']}").json()
        for k in (1, 2):
            old = client.get(url_of(told["finished"]["job"], "sr_16", k)).content
            assert_same_picture(old, client.get(url_of(new, "sr_16", k)).content)

    def test_a_new_job_beside_them(self, client: Client, told):
        new = client.run(**make.ASKED)
        assert new["state"] == "finished"
        for k in range(4):
            for stage in ("base_8", "sr_16"):
                old = client.get(url_of(told["finished"]["job"], stage, k)).content
                assert_same_picture(old, client.get(url_of(new, stage, k)).content)


def url_of(job: dict[str, Any], stage: str, k: int) -> str:
    (found,) = (each for each in job["stages"] if each["name"] == stage)
    return found["urls"][found["done"].index(k)]


def test_what_is_kept_stays_small():
    assert sum((FIRST / name).stat().st_size for name in make.leaves(FIRST)) < 3 << 20
