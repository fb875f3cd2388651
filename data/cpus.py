"""How many threads suit this machine now: the cores that this process may use, less those that others keep busy.

A thread too many is worse than one too few: where OpenMP's threads meet after each operation, all wait for the one that has no
core. So they also wait asleep (`wait_asleep`), not spinning on a core that the missing one could have.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

LEAST_S = 0.3  # over which use is measured
CGROUP = Path("/sys/fs/cgroup")


def wait_asleep() -> None:
    """OpenMP's threads sleep where they wait for each other; to be said before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def cores() -> list[int]:
    """Those that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def allowed(cgroup: Path = CGROUP) -> int:
    """How many cores this process may keep busy: its affinity, and the quota of its container."""
    return max(1, round(min(len(cores()), quota(cgroup))))


def quota(cgroup: Path) -> float:
    """Cores' worth of time that a control group (version 2, or 1) may use."""
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
    """Seconds of our cores that were used until now: by all, and by this process and those it has waited for."""

    all_s: float
    own_s: float
    at_s: float = field(default_factory=time.monotonic)

    @classmethod
    def now(cls) -> "Use":
        import psutil

        times, own = psutil.cpu_times(percpu=True), os.times()
        used = [t.user + t.nice + t.system for t in (times[k] for k in cores() if k < len(times))]
        return cls(sum(used), own.user + own.system + own.children_user + own.children_system)

    def others(self) -> float:
        """How many of our cores others have kept busy since."""
        time.sleep(max(0.0, self.at_s + LEAST_S - time.monotonic()))
        now = Use.now()
        return max(0.0, (now.all_s - self.all_s) - (now.own_s - self.own_s)) / (now.at_s - self.at_s)


def fitting(cores: int, others: float) -> int:
    """Threads for which there is a core each: of `cores` that we may use, those that others leave."""
    return max(1, round(cores - others))
