"""Starts `train.py` in many processes as a launcher would, but forked from one that has imported everything, which is cheap.

python -m tests.forked WORLD CASCADE STAGE --data SHARDS --out OUT ...
"""

import os
import sys
from pathlib import Path

import deepspeed
import torch

import cascade.manifest
import stages.training.loop
import train
from data.cli import run
from stages.training.deepspeed_engine import free_port

IMPORTED = (deepspeed, cascade.manifest, stages.training.loop)


def main(world: int, arguments: list[str]) -> int:
    """The worst exit code of all ranks."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    started = [rank for rank in range(world) if not start(rank, arguments)]
    return max(os.waitstatus_to_exitcode(os.wait()[1]) % 256 for _ in started)


def start(rank: int, arguments: list[str]) -> int:
    """In the parent 0; the child does not come back."""
    if os.fork():
        return 0
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    sys.argv = [str(Path(train.__file__)), *arguments]
    code = 1
    try:
        run(train.main)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), sys.argv[2:]))
