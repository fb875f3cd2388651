"""What an exception while sampling means: the code of `Failed`, so that nobody reads its message, and what the user is told."""

from data.errors import RunError
from stages.memory import is_memory_error

from ..events import Code


def code_of(error: BaseException) -> Code:
    """A chunk raises RunError where its network gave no numbers, a network elsewhere ConnectionError where it was lost."""
    if is_memory_error(error):
        return "out_of_memory"
    if isinstance(error, ConnectionError):
        return "network_lost"
    return "not_finite" if isinstance(error, RunError) else "internal"


def network_failure(error: Exception) -> str:
    """What the user is told of a call that failed, and cannot be made smaller."""
    return (
        "out of memory for a single image; ask for a smaller one"
        if is_memory_error(error)
        else "an error in the network"
    )


def sampler_failure(error: Exception) -> str:
    """What the user is told of a step between two calls that failed."""
    return "out of memory; ask for fewer or smaller images" if is_memory_error(error) else "an error while sampling"
