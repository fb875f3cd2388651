"""The updates of a student under the local engine and under DeepSpeed, in a process of their own; started by test_distilled.py.

python -m tests.stages.training.distilled_worker OUT
"""

import os
import sys
from pathlib import Path

from tests.stages.progressive import progressive, student, student_config
from tests.stages.tiny import shapes_batch
from tests.stages.training.compared import compare


def main(out: Path) -> None:
    with progressive():
        config = student_config(out / "teacher")
        compare(
            lambda: student(config), config.train, lambda start: shapes_batch(4, 8, start=start), out, zeros=(0, 2, 3)
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's threads are of no interest here
