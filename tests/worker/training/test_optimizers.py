"""Optimizers and their learning rates."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.core.spec import Finetune
from worker.models.registry import build
from worker.training.optimizers import compute_rate, make_optimizer, set_rate

runs = st.tuples(st.integers(1, 500), st.floats(0.0, 1.0))


@given(runs)
def test_the_rate_is_above_zero_and_at_most_the_one_asked_for(run):
    total, warmup = run
    settings = Finetune(epochs=1, learning_rate=0.1, warmup_fraction=warmup)
    rates = [compute_rate(step, total, settings) for step in range(total)]
    assert all(0 < rate <= 0.1 for rate in rates)
    assert max(rates) == pytest.approx(0.1)


@given(runs)
def test_the_rate_rises_while_warming_up_and_never_after(run):
    total, warmup = run
    settings = Finetune(epochs=1, learning_rate=0.1, warmup_fraction=warmup)
    rates = [compute_rate(step, total, settings) for step in range(total)]
    top = round(warmup * total)
    assert all(a < b for a, b in pairwise(rates[:top]))
    assert all(a >= b for a, b in pairwise(rates[top:]))


def test_the_rate_follows_half_a_cosine_after_ten_steps_of_warm_up():
    settings = Finetune(epochs=1, learning_rate=1.0, warmup_fraction=0.1)
    assert compute_rate(4, 100, settings) == pytest.approx(0.5)
    assert compute_rate(55, 100, settings) == pytest.approx(0.5)  # half of the 90 steps left
    assert compute_rate(70, 100, settings) == pytest.approx(0.5 * (1 + math.cos(math.pi * 60 / 90)))


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
