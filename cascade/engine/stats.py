"""Statistics of a host: time used, and how many rows its calls may have."""

import logging
import math
from dataclasses import dataclass, field

from .host import Host

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class HostStats:
    """Statistics of all hosts of one name since the start. batch: most rows of a call at the stage's own size. fits: lower limits,
    by size, after running out of memory. images: those that were answered and have moved on. busy_s: seconds in the network. clock:
    virtual time used, which decides whose turn it is."""

    batch: int
    fits: dict[tuple[int, ...], int] = field(default_factory=dict)
    calls: int = 0
    rows: int = 0
    images: int = 0
    busy_s: float = 0.0
    clock: float = 0.0

    def most(self, host: Host, size: tuple[int, ...]) -> int:
        """Most rows of a call for x0 of this size; time and memory are taken as proportional to its area."""
        rows = max(1, min(self.batch, self.batch * host.area // math.prod(size)))
        return min(rows, self.fits.get(size, rows))

    def halve(self, host: Host, size: tuple[int, ...]) -> None:
        """Halve the rows of calls of this size only, so that a request for a large picture costs others nothing; log it."""
        rows = self.most(host, size) // 2
        if size == host.stage.config.size:
            self.batch = rows
        else:
            self.fits[size] = rows
        message = "stage %s: out of memory at %dx%d px, now %d rows a call"
        height, width = (side * host.stage.config.space.scale for side in size[-2:])
        log.warning(message, host.name, width, height, self.most(host, size))

    def count(self, rows: int, seconds: float) -> None:
        """Count a call."""
        self.calls += 1
        self.rows += rows
        self.busy_s += seconds
        self.clock += seconds
