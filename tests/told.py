"""A file of which a write is interrupted by a signal."""

import io
import signal
from pathlib import Path
from typing import Any


class Told(io.RawIOBase):
    """A file in the midst of whose first write a signal comes."""

    def __init__(self, path: Path):
        super().__init__()
        self.file, self.told = path.open("ab", buffering=0), False

    def fileno(self) -> int:
        return self.file.fileno()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        if not self.told:
            self.told = True
            signal.raise_signal(signal.SIGUSR1)
        return self.file.write(content)

    def close(self) -> None:
        super().close()
        self.file.close()
