"""A small cascade of two stages with classes that have names, as a folder and loaded."""

import pytest

from cascade.pipeline import Cascade
from tests.cascade.chains import tiny_config, write_cascade
from tests.cascade.output.files import CLASSES


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with the bundles of base_8 -> sr_16, three classes; not to be changed."""
    return write_cascade(tmp_path_factory.mktemp("trained"), tiny_config(8, 16, classes=3), classes=CLASSES)


@pytest.fixture(scope="module")
def model(trained):
    return Cascade.load(trained)
