"""DenseNet's blocks as a parameter, and what a dense layer sees."""

import pytest
import torch

from app.core.errors import UnknownArchitecture
from worker.models.densenet import DenseBlock
from worker.models.registry import build


def make(**params):
    return build({"name": "densenet-121", "params": {"growth_rate": 2, "init_features": 4, **params}})


def test_a_block_passes_its_input_on_and_adds_the_growth_of_each_layer():
    block = DenseBlock(3, layers=4, growth=2).eval()
    x = torch.rand(1, 3, 5, 5)
    y = block(x)
    assert y.shape == (1, 3 + 4 * 2, 5, 5)
    assert torch.equal(y[:, :3], x)


def test_a_transition_halves_the_channels_between_two_blocks_alone():
    state = make(blocks=[2, 3], classes=7).module.state_dict()
    # (4 + 2·2) / 2 + 3·2 = 10.
    assert state["features.transition1.conv.weight"].shape == (4, 8, 1, 1)
    assert state["classifier.weight"].shape == (7, 10)
    assert not any(key.startswith("features.transition2") for key in state)


@pytest.mark.parametrize("blocks", [[], [0], [2.0], ["2"], [65], [1] * 7])
def test_blocks_that_are_no_counts_are_refused(blocks):
    with pytest.raises(UnknownArchitecture, match="blocks"):
        make(blocks=blocks)


def test_an_image_must_leave_the_last_block_a_pixel():
    assert make(blocks=[1] * 4, image_size=32).module(torch.rand(1, 3, 32, 32)).shape == (1, 1000)
    with pytest.raises(UnknownArchitecture, match="too small for 4 blocks: at least 32"):
        make(blocks=[1] * 4, image_size=31)
