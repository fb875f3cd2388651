"""The product: bundles in, pictures and events out. `from cascade import Cascade, Request` imports only what it names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine.engine import Engine
    from .events import Cancelled, Event, Failed, Finished, Preview, StageFinished, StageStarted
    from .pipeline import Cascade
    from .request import Request

_HOMES = {
    "Cascade": "pipeline",
    "Request": "request",
    "Engine": "engine.engine",
    **dict.fromkeys(("Event", "StageStarted", "Preview", "StageFinished", "Finished", "Failed", "Cancelled"), "events"),
}
__all__ = [
    "Cancelled", "Cascade", "Engine", "Event", "Failed", "Finished", "Preview", "Request", "StageFinished", "StageStarted",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first access: importing the package loads neither torch nor pydantic."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
