"""Gradients clipped beside masks."""

import copy

import pytest
import torch
from torch import nn

from worker.pruning.clipping import clip_gradients


def make_module() -> nn.Linear:
    module = nn.Linear(4, 1)
    module.weight.grad = torch.tensor([[3.0, 4.0, 100.0, float("inf")]])
    module.bias.grad = torch.tensor([12.0])
    return module


def test_all_are_scaled_by_the_norm_of_those_kept():
    # 3, 4 and 12 have a norm of 13.
    module = make_module()
    clip_gradients(module, {"weight": torch.tensor([[True, True, False, False]])}, limit=1.3)
    assert module.weight.grad[0, :3].tolist() == pytest.approx([0.3, 0.4, 10.0], rel=1e-5)
    assert module.bias.grad.tolist() == pytest.approx([1.2], rel=1e-5)


def test_a_norm_below_the_limit_changes_nothing():
    module = make_module()
    clip_gradients(module, {"weight": torch.tensor([[True, True, False, False]])}, limit=14.0)
    assert module.weight.grad.tolist() == make_module().weight.grad.tolist()


def test_without_a_mask_torch_clips_to_the_same_bits():
    module = nn.Linear(8, 8)
    module(torch.randn(4, 8)).square().sum().backward()
    other = copy.deepcopy(module)
    for parameter, like in zip(other.parameters(), module.parameters(), strict=True):
        parameter.grad = like.grad.clone()
    clip_gradients(module, {}, limit=0.1)
    nn.utils.clip_grad_norm_(other.parameters(), 0.1)
    assert torch.equal(module.weight.grad, other.weight.grad)
    assert torch.equal(module.bias.grad, other.bias.grad)


def test_a_tied_weight_counts_once():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    module[0].weight.grad = torch.tensor([[3.0, 7.0], [4.0, 7.0]])
    clip_gradients(module, {"0.weight": torch.tensor([[True, False], [True, False]])}, limit=0.5)
    assert module[0].weight.grad.flatten().tolist() == pytest.approx([0.3, 0.7, 0.4, 0.7], rel=1e-5)


def test_without_any_gradient_nothing_is_done():
    module = nn.Linear(4, 1)
    clip_gradients(module, {"weight": torch.tensor([[True, True, False, False]])}, limit=1.0)
    assert module.weight.grad is None
