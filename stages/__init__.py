"""One stage: its mathematics, network, training and sampling."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import build_stage
    from .bundle import load_bundle, read_sidecar, save_bundle
    from .config import BaseConfig, SampleConfig, StageConfig, SuperResConfig
    from .sampling import sample_alone
    from .stage import Stage

_HOMES = {
    "build_stage": "build",
    "Stage": "stage",
    **dict.fromkeys(("load_bundle", "read_sidecar", "save_bundle"), "bundle"),
    **dict.fromkeys(("StageConfig", "BaseConfig", "SuperResConfig", "SampleConfig"), "config"),
    "sample_alone": "sampling",
}
__all__ = [
    "BaseConfig", "SampleConfig", "Stage", "StageConfig", "SuperResConfig", "build_stage", "load_bundle",
    "read_sidecar", "sample_alone", "save_bundle",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
