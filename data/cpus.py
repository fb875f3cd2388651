"""How many threads to use now: the cores that this process may use, less those that other processes keep busy.

One thread too many is worse than one too few: OpenMP's threads meet after each operation, so all wait for the one
without a core. For the same reason they sleep while they wait (`wait_asleep`), instead of spinning on a core that this
one could use.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

LEAST_S = 0.3  # least time over which use is measured
CGROUP = Path("/sys/fs/cgroup")


def wait_asleep() -> None:
    """Let OpenMP's threads sleep while they wait for each other. Call it before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def cores() -> list[int]:
    """Numbers of the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def allowed(cgroup: Path = CGROUP) -> int:
    """How many cores this process may keep busy: its affinity or its container's quota, whichever is less; at least 1."""
    return max(1, round(min(len(cores()), quota(cgroup))))


def quota(cgroup: Path) -> float:
    """CPU time that a control group (version 2, else 1) may use, in cores; infinite without a limit."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return float("inf")
    return int(limit) / int(period) if limit.strip() not in ("max", "-1") else float("inf")


@dataclass(frozen=True)
class Use:
    """CPU seconds used so far on our cores: by all processes, and by this one with the children it has waited for."""

    all_s: float
    own_s: float
    at_s: float = field(default_factory=time.monotonic)

    @classmethod
    def now(cls) -> "Use":
        """Measure the use up to now."""
        import psutil

        times, own = psutil.cpu_times(percpu=True), os.times()
        busy = [t.user + t.nice + t.system for t in (times[k] for k in cores() if k < len(times))]
        return cls(sum(busy), own.user + own.system + own.children_user + own.children_system)

    def others(self) -> float:
        """How many of our cores other processes have kept busy since; sleeps until LEAST_S have passed."""
        time.sleep(max(0.0, self.at_s + LEAST_S - time.monotonic()))
        current = Use.now()
        return max(0.0, (current.all_s - self.all_s) - (current.own_s - self.own_s)) / (current.at_s - self.at_s)


def fitting(cores: int, others: float) -> int:
    """Number of threads that get a core each: `cores` less those that others keep busy, at least 1."""
    return max(1, round(cores - others))
