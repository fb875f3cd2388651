"""What is known of a host: how long it took, how many rows its calls may have."""

import logging
import math
from dataclasses import dataclass, field

from .host import Host

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class HostStats:
    """Of all hosts of one name since the start. batch: most rows of a call at the stage's own size. fits: fewer, by size, where
    memory did not suffice. images: that it has answered for and that went on. busy_s: in the network. clock: its share of time, as
    reckoned."""

    batch: int
    fits: dict[tuple[int, ...], int] = field(default_factory=dict)
    calls: int = 0
    rows: int = 0
    images: int = 0
    busy_s: float = 0.0
    clock: float = 0.0

    def most(self, host: Host, size: tuple[int, ...]) -> int:
        """Rows of a call for x0 of a size: time and memory go with the product of its sides."""
        rows = max(1, min(self.batch, self.batch * host.area // math.prod(size)))
        return min(rows, self.fits.get(size, rows))

    def halve(self, host: Host, size: tuple[int, ...]) -> None:
        """Of this size alone, and say so: one request for a large picture costs others nothing."""
        rows = self.most(host, size) // 2
        if size == host.stage.config.size:
            self.batch = rows
        else:
            self.fits[size] = rows
        text = "stage %s: out of memory at %dx%d px, now %d rows a call"
        height, width = (side * host.stage.config.space.scale for side in size[-2:])
        log.warning(text, host.name, width, height, self.most(host, size))

    def count(self, rows: int, seconds: float) -> None:
        self.calls += 1
        self.rows += rows
        self.busy_s += seconds
        self.clock += seconds
