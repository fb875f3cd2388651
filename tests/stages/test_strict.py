"""Defaults of configs: made without checks at import, hence checked here."""

import inspect
import subprocess
import sys

import pytest

import stages.bundle
import stages.config  # noqa: F401
from stages.strict import Strict


def kinds(base: type[Strict] = Strict) -> list[type[Strict]]:
    return [each for kind in base.__subclasses__() for each in (kind, *kinds(kind))]


def complete(kind: type[Strict]) -> bool:
    return not inspect.isabstract(kind) and not any(each.is_required() for each in kind.model_fields.values())


WITH_DEFAULTS = [kind for kind in kinds() if kind.__module__.startswith("stages.") and complete(kind)]


@pytest.mark.parametrize("kind", WITH_DEFAULTS, ids=lambda kind: kind.__name__)
def test_defaults_are_what_the_checks_would_give(kind):
    checked = kind()
    assert kind.defaults() == checked
    assert kind.model_validate(checked.model_dump()) == checked
    assert repr(kind.defaults()) == repr(checked)


def test_there_are_defaults_to_check():
    assert {"TrainConfig", "SampleConfig", "NoiseConfig", "CondConfig", "AugConfig"} <= {
        kind.__name__ for kind in WITH_DEFAULTS
    }


def test_configs_are_read_where_torch_is_not_loaded_yet():
    """Building a class's validator at import is what loaded it: the checks of sampling levels compute grids."""
    code = "import sys, stages.config, cascade.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
