"""Makes what tests/kept/ holds of one version: things that users have on their disks, which every later version must open.

    python -m tests.kept.make tests/kept/NAME        once for a version, then never again: FIRST was made by the first one

shards/       48 pictures of six classes, packed
tiny.yaml     base_8 and sr_16 by class
runs/         what training left of it at 24 of 48 images: alone/ by the local engine, two/ by two processes at ZeRO stage 2
cascades/     trained stages by text and by class, with random weights
pictures/     what sample.py painted by class, with every stage's picture
bulk/         half/ a job of shards in the middle, whole/ when it had ended, prompts.txt
store/        of a server: a finished job, a held one, a cancelled one, a removed one
next.json     the losses that followed in each run
told.json     what the server said of its jobs
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import sample
import train
from cascade.config import CascadeConfig
from cascade.manifest import write_manifest
from cascade.pipeline import Cascade
from data.pack.packer import pack
from data.pack.settings import PackSettings
from data.shapes import write_folder
from stages.config import TextConfig
from stages.nets.unet_config import UNetConfig
from stages.training.deepspeed_engine import free_port
from tests.calling import call
from tests.cascade.chains import ENCODER, tiny_config, write_bundle
from tests.serve.serving import Client, Serving, slowed

ROOT = Path(__file__).parents[2]
FIRST = Path(__file__).with_name("first")
AT, END = 24, 48  # images
TRAINED = """
name: tiny
stages:
  base_8:
    kind: base
    resolution: 8
    net: &net {widths: [8, 16], blocks: [1, 1], self_attention: [1], head_dim: 8, emb_dim: 8}
    cond: &cond {num_classes: 6}
    train: &train {images: 48, batch: 8, streams: 4, workers: 0, warmup: 8, schedule: constant, ema: [16, 64],
                   precision: fp32, compile: false, save_every: 24, log_every: 8, grid_every: 1000, snapshot_every: 16,
                   val_images: 8}
    sample: &sample {num_steps: 2, sigma_max: 5.0, sigma_min: 0.02, guidance_scale: 2.0}
  sr_16:
    kind: super_res
    resolution: 16
    low_res: 8
    crop: 8
    net: {widths: [8, 16], blocks: [1, 1], emb_dim: 8, patch: 2}
    cond: *cond
    train: {<<: *train, flip: true}
    sample: *sample
"""
RUNS = {"alone": ("base_8", "sr_16"), "two": ("base_8",)}
PAINTED = ("--label", "1", "--label", "4", "--num", "2", "--seed", "3", "--stages-out")
PROMPTS = "red heart\ngreen apple\n"
BULK = ("--num", "4", "--shard-size", "3", "--seed", "5")
ASKED: dict[str, Any] = {"prompts": ["red heart", "green apple"], "num": 2, "seed": 7, "settings": {}}


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True)
    runs(folder)
    cascades(folder)
    assert call(sample.main, *painting(folder, folder / "pictures")) == 0
    bulk(folder)
    store(folder)


def runs(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(TRAINED.lstrip())
    pack(write_folder(folder / "raw", 48, 16), folder / "shards", PackSettings(size=16, shards=4, val=0.25), workers=0)
    shutil.rmtree(folder / "raw")
    after = {}
    for name, stages in RUNS.items():
        for stage in stages:
            run = folder / "runs" / name / stage
            trained(folder, name, stage, run.parent, images=AT)
            scratch = folder / "scratch"
            shutil.copytree(run, scratch / stage)
            trained(folder, name, stage, scratch, images=END)
            after[f"{name}/{stage}"] = losses(scratch / stage)
            shutil.rmtree(scratch)
            shutil.rmtree(run / "tensorboard")
            (run / "run.lock").unlink()
            made = run / "environment.json"
            made.write_text(
                json.dumps(json.loads(made.read_text()) | {"command": ["train.py"], "device": "cpu"}, indent=2)
            )
    (folder / "next.json").write_text(json.dumps(after, indent=1) + "\n")


def trained(folder: Path, name: str, stage: str, out: Path, *, images: int = END) -> None:
    """Trains on in `out`, as the run `name` was trained: in this process or in two."""
    told = [
        str(folder / "tiny.yaml"),
        stage,
        "--data",
        str(folder / "shards"),
        "--out",
        str(out),
        "--images",
        str(images),
    ]
    if name == "alone":
        assert call(train.main, *told, "--device", "cpu") == 0
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    command = [*launcher, "--master-port", str(free_port()), "train.py", *told, "--zero", "2", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(run: Path) -> dict[str, list[float]]:
    """Of each update after AT, and of the last validation."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    new = [line for line in lines if line["nimg"] > AT]
    return {
        "loss": [line["loss"] for line in new],
        "val_loss": [line["val_loss"] for line in new if "val_loss" in line],
    }


def cascades(folder: Path) -> None:
    by_text = TextConfig(encoder="minilm", dim=384, tokens=8)
    net = UNetConfig(widths=(8, 16), blocks=(1, 1), emb_dim=16, head_dim=8, self_attention=(1,), cross_attention=(1,))
    plain = tiny_config(text=by_text, guidance_scale=2.0, name="text")
    base = plain.stages["base_8"].model_copy(update={"net": net})
    text = CascadeConfig(name="text", stages=plain.stages | {"base_8": base})
    for config, classes, encoder in (
        (tiny_config(classes=6, guidance_scale=2.0, name="class"), tuple("abcdef"), None),
        (text, None, ENCODER),
    ):
        place = folder / "cascades" / config.name
        write_manifest(config, place)
        for name, stage in config.stages.items():
            write_bundle(place / name / "bundle", stage, text_encoder=encoder, classes=classes)


def painting(folder: Path, out: Path) -> list[str]:
    """Arguments of sample.py."""
    return ["--cascade", str(folder / "cascades" / "class"), *PAINTED, "--device", "cpu", "--out", f"{out}/"]


def bulk(folder: Path) -> None:
    (folder / "bulk").mkdir()
    (folder / "bulk" / "prompts.txt").write_text(PROMPTS)
    whole, half = folder / "bulk" / "whole", folder / "bulk" / "half"
    assert call(sample.main, *generating(folder, whole)) == 0
    shutil.copytree(whole, half)
    (half / "train-00001.tar").rename(half / ".0-of-1.1.part")
    os.truncate(half / ".0-of-1.1.part", 2000)
    (half / "train-00002.tar").unlink()


def generating(folder: Path, out: Path) -> list[str]:
    prompts = str(folder / "bulk" / "prompts.txt")
    cascade = str(folder / "cascades" / "text")
    return ["--cascade", cascade, "--prompts-file", prompts, *BULK, "--device", "cpu", "--out", str(out)]


def store(folder: Path) -> None:
    serving = serve(folder, folder / "store", delay_s=0.05)
    try:
        client = serving.client
        made = {"finished": client.start(**ASKED)["id"], "held": client.start(**ASKED | {"until": "base_8"})["id"]}
        made |= {"cancelled": client.start(**ASKED | {"num": 8})["id"], "removed": client.start(**ASKED)["id"]}
        client.delete(f"/v1/jobs/{made['cancelled']}")
        states = {name: client.finish(job) for name, job in made.items()}
        assert states == {name: "finished" if name == "removed" else name for name in made}, states
        assert client.delete(f"/v1/jobs/{made['removed']}/pictures").status_code == 204
        told = {name: said_of(client, job) for name, job in made.items() if name != "removed"}
        told |= {"removed": {"id": made["removed"]}, "listed": client.get("/v1/jobs").json()}
    finally:
        serving.close()
    (folder / "store" / "lock").write_text("")
    (folder / "told.json").write_text(json.dumps(told, indent=1) + "\n")


def serve(folder: Path, store: Path, delay_s: float = 0.0) -> Serving:
    """A server of cascades/text with this store, from which nothing expires by age."""
    cascade = Cascade.load(folder / "cascades" / "text")
    return Serving(slowed(cascade, delay_s) if delay_s else cascade, store, keep_s=1e12)


def said_of(client: Client, job: str) -> dict[str, Any]:
    """What a server says of a job that has ended."""
    return {
        "id": job,
        "job": client.get(f"/v1/jobs/{job}").json(),
        "events": [list(event) for event in client.events(job)],
    }


def leaves(folder: Path) -> Iterator[Path]:
    """Files of a folder, by their path in it."""
    return (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())


if __name__ == "__main__":
    main()
