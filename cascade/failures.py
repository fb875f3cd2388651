"""What an exception while sampling means: the code of `Failed`, so that nobody has to read its message."""

from data.errors import RunError
from stages.memory import is_memory_error

from .events import Code


def code_of(error: BaseException) -> Code:
    """A chunk raises RunError where its network gave no numbers, a network elsewhere ConnectionError where it was lost."""
    if is_memory_error(error):
        return "out_of_memory"
    if isinstance(error, ConnectionError):
        return "network_lost"
    return "not_finite" if isinstance(error, RunError) else "internal"
