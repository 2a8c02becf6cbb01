"""A model is evaluated for a while, and a module that was frozen stays so."""

import pytest
import torch
from torch import nn

from worker.pruning.modes import in_mode
from worker.pruning.removal.check import compare, prove
from worker.pruning.removal.groups import find_groups
from worker.pruning.removal.stacks import find_stacks
from worker.pruning.removal.surgery import Removal

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))


def frozen() -> nn.Sequential:
    """Return a network that trains, all but its norm."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    model[1].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("training", [True, False])
def test_every_module_gets_its_own_mode_back_after_an_error_too(training: bool) -> None:
    model = frozen()
    inside = []

    def fail() -> None:
        with in_mode(model, training=training):
            inside.extend(modes(model))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert set(inside) == {training}
    assert modes(model) == [True, True, False, True, True]


@pytest.mark.parametrize(
    "use",
    [
        lambda model: find_groups(model, X),
        lambda model: prove(model, find_groups(model, X), lambda one: one(X)),
        lambda model: compare(model, Removal({}, {}), lambda one: one(X)),
        lambda model: find_stacks(model, lambda one: one(X)),
    ],
)
def test_nothing_that_looks_at_a_model_thaws_its_frozen_norm(use: object) -> None:
    model = frozen()
    use(model)  # type: ignore[operator]  # one of the rows above
    assert modes(model) == [True, True, False, True, True]
