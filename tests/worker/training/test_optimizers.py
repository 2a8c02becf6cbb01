"""Optimizers, and what they remember."""

import copy

import pytest
import torch

from app.core.finetune import Finetune
from worker.models.registry import build
from worker.training.optimizers import dump_state, load_state, make_optimizer, set_rate


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_matrices_and_filters_decay(name):
    module = build({"name": "resnet8x8"}).module
    settings = Finetune(epochs=1, optimizer=name, weight_decay=0.3)
    decay = {
        id(p): group["weight_decay"]
        for group in make_optimizer(module, settings).param_groups
        for p in group["params"]
    }
    assert len(decay) == len(list(module.parameters()))
    for parameter_name, parameter in module.named_parameters():
        is_weight = "conv" in parameter_name or parameter_name == "linear.weight"
        assert decay[id(parameter)] == (0.3 if is_weight else 0.0), parameter_name


def test_the_optimizers_are_those_asked_for():
    module = torch.nn.Linear(2, 2)
    sgd = make_optimizer(module, Finetune(epochs=1, optimizer="sgd"))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.9
    assert sgd.defaults["nesterov"]
    assert isinstance(make_optimizer(module, Finetune(epochs=1, optimizer="adamw")), torch.optim.AdamW)


def test_a_rate_reaches_every_group():
    optimizer = make_optimizer(torch.nn.Linear(2, 2), Finetune(epochs=1))
    set_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_without_momentum_and_nesterov_it_is_plain_descent():
    sgd = make_optimizer(torch.nn.Linear(2, 2), Finetune(optimizer="sgd", momentum=0.0, nesterov=False))
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.0, False)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_an_optimizer_remembers_survives_a_restart(name):
    settings = Finetune(epochs=1, optimizer=name)
    one, other = (torch.nn.Linear(2, 2) for _ in range(2))
    before, after = make_optimizer(one, settings), make_optimizer(other, settings)
    one(torch.ones(1, 2)).sum().backward()
    before.step()
    load_state(after, dump_state(before))
    ours, theirs = dump_state(before), dump_state(after)
    assert ours.keys() == theirs.keys()
    for number, state in ours.items():
        assert all(torch.equal(value, theirs[number][key]) for key, value in state.items())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_layout_of_memory_is_trained_alike(name, memory_format):
    # The kernel that makes one pass over memory takes no notice of strides.
    settings = Finetune(epochs=1, optimizer=name, learning_rate=0.01)
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(4, 8, 3)
    laid_out = copy.deepcopy(plain).to(memory_format=memory_format)
    slow = make_optimizer(plain, settings)
    for group in slow.param_groups:
        group["fused"] = False
    images = torch.randn(2, 4, 8, 8)
    for module, optimizer in ((plain, slow), (laid_out, make_optimizer(laid_out, settings))):
        for _ in range(3):
            optimizer.zero_grad()
            module(images).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(laid_out.weight, plain.weight)
