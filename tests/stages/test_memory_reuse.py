"""Memory that was freed is used again without a page fault."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from stages.tools.memory_reuse import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.zeros(4, 64, 256, 256)  # 64 MB
    for _ in range(2):
        x = torch.nn.functional.silu(x) + x
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(6)][-1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_tensors_of_the_same_sizes_need_no_new_pages():
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 100 < faults("leave")
