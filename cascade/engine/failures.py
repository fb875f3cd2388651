"""Maps exceptions during sampling to the code of `Failed`, for programs, and to its message, for users."""

from data.errors import RunError
from stages.memory import is_memory_error

from ..events import Code


def code_of(error: BaseException) -> Code:
    """The code of an exception. RunError: a network gave NaN or infinity; ConnectionError: its process was lost."""
    if is_memory_error(error):
        return "out_of_memory"
    if isinstance(error, ConnectionError):
        return "network_lost"
    return "not_finite" if isinstance(error, RunError) else "internal"


def network_failure(error: Exception) -> str:
    """Message for a network call that failed and cannot be made smaller."""
    return (
        "out of memory for a single image; ask for a smaller one"
        if is_memory_error(error)
        else "an error in the network"
    )


def sampler_failure(error: Exception) -> str:
    """Message for a sampler step, between two network calls, that failed."""
    return "out of memory; ask for fewer or smaller images" if is_memory_error(error) else "an error while sampling"
