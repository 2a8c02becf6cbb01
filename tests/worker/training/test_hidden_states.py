"""What blocks put out, and how far two models' are apart."""

import pytest
import torch
from torch import nn

from tests.worker.training.recoveries import make_model, make_split
from worker.models.registry import build
from worker.training.hidden_states import HiddenStates, compute_distance, find_blocks

X = make_split().take(torch.arange(5)).inputs


@pytest.mark.parametrize(
    ("architecture", "blocks"),
    [
        ({"name": "resnet8x8", "params": {"width": 4}}, 3),
        ({"name": "resnet-20"}, 9),
        ({"name": "vit-small-images", "params": {"width": 32, "depth": 2}}, 2),
        ({"name": "lenet-300-100"}, 3),
    ],
)
def test_blocks_are_the_repeated_parts_or_else_the_layers(architecture, blocks):
    assert len(find_blocks(build(architecture).module)) == blocks


def test_outputs_are_kept_while_it_is_entered_and_no_longer():
    module = make_model()
    hidden = HiddenStates(module)
    with hidden:
        module(X)
    assert [tuple(state.shape) for state in hidden.outputs] == [(5, 4, 8, 8), (5, 8, 4, 4), (5, 16, 2, 2)]
    module(X)
    assert len(hidden.outputs) == 3
    assert all(not m._forward_hooks for m in module.modules())


def test_blocks_that_return_more_than_a_state_are_understood():
    class Block(nn.Linear):
        def forward(self, x):
            return super().forward(x), "attention"

    block = Block(2, 2)
    with (hidden := HiddenStates(nn.ModuleDict({"list": nn.ModuleList([block])}))):
        block(torch.zeros(1, 2))
    assert [state.shape for state in hidden.outputs] == [(1, 2)]


def test_the_distance_is_nought_between_equals_and_one_from_zero_whatever_the_scale():
    states = [torch.randn(2, 3), 100 * torch.randn(2, 4, 5)]
    assert float(compute_distance(states, states, None)) == 0.0
    zeros = [torch.zeros_like(state) for state in states]
    assert float(compute_distance(zeros, states, None)) == pytest.approx(1.0)


def test_padding_does_not_count():
    dense = torch.randn(1, 3, 4)
    state, mask = dense.clone(), torch.tensor([[1, 1, 0]])
    state[:, 2] = 1000.0
    assert float(compute_distance([state], [dense], mask)) == 0.0
    assert float(compute_distance([state], [dense], None)) > 1.0
