"""How long importing cascade, stages and data takes beyond torch itself: `python tests/bench/bench_import.py [--quick]`.

Each import is a fresh process, in turns, with compiled bytecode at hand as after the first start of an installed program (in a
folder of its own, so that an environment that writes none is measured alike). Target: less than 2 s beyond torch.
"""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from machine import describe, table

from data.cli import run

TARGET_S = 2.0
ROOT = Path(__file__).parents[2]
IMPORTS = {
    "torch": "import torch",
    "data": "import torch, data.batch, data.read.shards",
    "stages": "import torch, stages.build, stages.bundle, stages.sampling",
    "training": "import torch, stages.training.loop",
    "cascade": "import torch, cascade.config, cascade.manifest, cascade.pipeline",
    "train.py": "import torch, train",
    "sample.py": "import torch, sample",
}
CLOCK = "import time; wall, cpu = time.perf_counter(), time.process_time()\n{}\n"
CLOCK += "print(time.perf_counter() - wall, time.process_time() - cpu)"


def main(quick: Annotated[bool, typer.Option(help="3 repeats, not 11")] = False) -> None:
    """Print the medians, by the wall's clock and of processor time."""
    print(describe())
    with TemporaryDirectory() as folder:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        env |= {"PYTHONPYCACHEPREFIX": folder, "PYTHONPATH": str(ROOT)}
        for statement in IMPORTS.values():
            seconds(statement, env)
        runs = [
            {name: seconds(statement, env) for name, statement in IMPORTS.items()} for _ in range(3 if quick else 11)
        ]
    wall = {name: median(each[name][0] for each in runs) for name in IMPORTS}
    cpu = {name: median(each[name][1] for each in runs) for name in IMPORTS}
    beyond = {name: median(each[name][0] - each["torch"][0] for each in runs) for name in IMPORTS}
    rows = [(name, f"{wall[name]:.2f}", f"{beyond[name]:.2f}", f"{cpu[name] - cpu['torch']:.2f}") for name in IMPORTS]
    print(table(("import", "s", "s beyond torch", "processor s beyond torch"), rows))
    worst = max(beyond, key=beyond.__getitem__)
    print(f"target {TARGET_S} s beyond torch: {'reached' if beyond[worst] < TARGET_S else f'MISSED by {worst}'}")


def seconds(statement: str, env: dict[str, str]) -> tuple[float, float]:
    """Wall and processor seconds of a statement in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", CLOCK.format(statement)],
        env=env,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    wall, cpu = done.stdout.split()[-2:]
    return float(wall), float(cpu)


if __name__ == "__main__":
    run(main)
