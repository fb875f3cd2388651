"""A budget of processor time, for every system of equal_budget.py alike. Peers run it in their own environment."""

import time


class Budget:
    """CPU seconds of this process (all threads, user and system) from now on. A busy machine disturbs them less than the wall's."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._started_at = time.process_time()

    @property
    def used_s(self) -> float:
        return time.process_time() - self._started_at

    @property
    def share(self) -> float:
        """How much of it is used, 0 to 1."""
        return min(1.0, self.used_s / self.seconds)

    @property
    def is_over(self) -> bool:
        return self.used_s >= self.seconds
