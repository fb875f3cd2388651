"""train.py with an accident: `faulty_train.py WHAT RANK NIMG ARGUMENTS...` (or under torchrun).

When rank RANK has done the update that ends at image NIMG: `kill` (-9), `term`, `usr1`, `int` (a signal to itself), `twice`
(SIGTERM, and a second request in the save that follows), `hang` (sleeps for ever), `stuck` (in the next update), `none`.
"""

import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from stages.training import deepspeed_engine, loop, signals  # noqa: E402
from stages.training.skips import Skips  # noqa: E402

what, rank, nimg = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "usr1": signal.SIGUSR1, "int": signal.SIGINT}


def second(run: loop.Run, **_: object) -> None:
    run.saver.wait()  # the save before is whole
    os.kill(os.getpid(), signal.SIGTERM)


def accident() -> None:
    if what == "hang":
        time.sleep(600)
    elif what == "stuck":
        deepspeed_engine.DeepSpeedEngine.update = lambda *_: time.sleep(600)  # type: ignore[method-assign, assignment]
    elif what == "twice":
        signals.SAME_S = 0.0  # of these two, the second is one
        loop.Run._save = second  # type: ignore[method-assign, assignment]
        os.kill(os.getpid(), signal.SIGTERM)
    elif what != "none":
        os.kill(os.getpid(), SIGNALS[what])


check = Skips.check


def checked(self, update, batch, position, run):
    check(self, update, batch, position, run)
    if int(os.environ.get("RANK", "0")) == rank and position + 8 == nimg:
        accident()


Skips.check = checked  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.argv = ["train.py", *sys.argv[4:]]
    import train
    from data.cli import run

    run(train.main)
