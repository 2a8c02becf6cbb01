"""Cutting a model in place: optimizers go on, ties stay, and a cut for a while leaves no trace."""

import pytest
import torch
from torch import nn

from tests.worker.pruning.removal.drawing import draw_weights, find_and_prove, halve
from worker.pruning.errors import MaskMismatch
from worker.pruning.removal.groups import find_groups
from worker.pruning.removal.surgery import cut_state, plan_removal, remove, removed
from worker.pruning.removal.tracer import Axis

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 8), nn.Linear(8, 3))
    draw_weights(model)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, amsgrad=True),
    ],
)
def test_an_optimizer_goes_on_with_all_parameters_and_a_memory_that_fits(make: object) -> None:
    model = network()
    optimizer = make(model.parameters())  # type: ignore[operator]  # a factory of the rows above
    model(X).sum().backward()
    optimizer.step()
    momentum = {
        name: {
            key: value.clone() for key, value in optimizer.state[parameter].items() if torch.is_tensor(value)
        }
        for name, parameter in model.named_parameters()
    }
    removal = halve(model, find_and_prove(model, X))
    remove(model, removal)
    cut_state(optimizer, model, removal)
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            if torch.is_tensor(value) and value.ndim:
                assert torch.equal(value, removal.cut(name, momentum[name][key]))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer.zero_grad()
    model(X).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_an_optimizer_that_remembers_one_number_along_an_axis_goes_on() -> None:
    model = network()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    whole = {key: value.clone() for key, value in optimizer.state[model[0].weight].items()}
    removal = halve(model, find_and_prove(model, X))
    remove(model, removal)
    cut_state(optimizer, model, removal)
    now, rows = optimizer.state[model[0].weight], removal.kept[Axis("0.weight", 0)]
    assert torch.equal(now["row_var"], whole["row_var"][rows])
    assert torch.equal(now["col_var"], whole["col_var"])
    optimizer.zero_grad()
    model(X).square().sum().backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_memory_of_no_shape_of_the_parameter_is_left() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    square = torch.eye(10)
    optimizer.state[model[0].weight] = {"preconditioner": square}
    removal = halve(model, find_and_prove(model, X))
    remove(model, removal)
    cut_state(optimizer, model, removal)
    assert optimizer.state[model[0].weight]["preconditioner"] is square


def test_tied_weights_stay_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.again, self.head = nn.Linear(6, 10), nn.Linear(6, 10), nn.Linear(10, 3)
            self.again.weight = self.up.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.up(x).relu() + self.again(x).tanh())  # type: ignore[no-any-return]

    model = Tied()
    draw_weights(model)
    remove(model, halve(model, find_and_prove(model, X)))
    assert model.again.weight is model.up.weight
    assert model.up.weight.shape == (5, 6)
    assert model.head.weight.shape == (3, 5)


def test_a_cut_for_a_while_leaves_the_model_as_it_was() -> None:
    model = network().train()
    removal = halve(model, find_and_prove(model, X))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shown = repr(model)
    with removed(model, removal):
        assert repr(model) != shown
        assert model[0].weight.shape == (5, 6)
    assert repr(model) == shown
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_cut_state_dict_loads_into_a_cut_model() -> None:
    model, other = network(), network()
    removal = halve(model, find_and_prove(model, X))
    remove(model, removal)
    draw_weights(other, seed=9)
    remove(other, removal)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(X), model.eval()(X))


@pytest.mark.parametrize(
    ("name", "kept", "said"),
    [
        ("9.weight", torch.ones(10, dtype=torch.bool), "there is no group '9.weight'"),
        ("0.weight", torch.ones(9, dtype=torch.bool), r"expected bool \[10\], found torch.bool \[9\]"),
        ("0.weight", torch.ones(10), "found torch.float32"),
        ("0.weight", torch.zeros(10, dtype=torch.bool), "one unit of 0.weight has to stay"),
        ("4.weight", torch.tensor([True, False, True]), "nothing of 4.weight can be removed"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(name: str, kept: torch.Tensor, said: str) -> None:
    model = network()
    with pytest.raises(MaskMismatch, match=said):
        plan_removal(model, find_groups(model, X), {name: kept})
