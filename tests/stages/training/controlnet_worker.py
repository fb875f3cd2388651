"""The updates of a control net under the local engine and under DeepSpeed, in a process of its own; test_controlnet.py starts it.

python -m tests.stages.training.controlnet_worker OUT
"""

import os
import sys
from pathlib import Path

from stages.training.controlled import beside
from tests.stages.controlled import base_bundle, controlled, controlled_config, mapped_batch
from tests.stages.training.compared import compare


def main(out: Path) -> None:
    config = beside(controlled_config(base_bundle(out / "base"), lr=1e-2))
    compare(
        lambda: controlled(config),
        config.train,
        lambda start: mapped_batch(4, start=start),
        out,
        zeros=(0, 1, 2, 3),
        is_reloaded=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's threads are of no interest here
