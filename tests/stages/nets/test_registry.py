"""The registries hold together: a word is its config's own, and what a config names is there, of the right make."""

from pkgutil import resolve_name

import pytest
from torch import nn

from stages.config import KINDS
from stages.nets.registry import NETWORKS
from stages.spaces.registry import SPACES
from stages.stage import Stage


@pytest.mark.parametrize(("word", "config"), [*NETWORKS.items(), *SPACES.items(), *KINDS.items()])
def test_a_word_is_what_its_config_is_called(word, config):
    assert config.model_fields["kind"].default == word


@pytest.mark.parametrize("config", NETWORKS.values())
def test_a_network_s_class_is_where_its_config_says(config):
    network = config.loaded()
    assert issubclass(network, nn.Module)
    assert {"blocks", "fold"} <= set(dir(network))
    if config.controlled:
        assert issubclass(resolve_name(config.controlled), nn.Module)


@pytest.mark.parametrize("config", KINDS.values())
def test_a_stage_s_class_is_where_its_config_says(config):
    assert issubclass(config.loaded(), Stage)


@pytest.mark.parametrize("config", SPACES.values())
def test_a_space_s_class_is_where_its_config_says(config):
    space = config.loaded()
    assert {"read", "mirrored", "load", "store", "down", "up", "windows", "show"} <= set(vars(space))
