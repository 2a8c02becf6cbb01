"""A cut that a model cannot do without is found before it counts, whatever shows it, and is not made."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.pruning.removal.drawing import draw_weights
from tests.worker.pruning.removal.traps import Functional, conv, images
from worker.pruning.errors import MaskMismatch, UnreachableTarget
from worker.pruning.removal.shrinking import Shrunk, shrink
from worker.pruning.removal.surgery import masked

Layers = nn.ModuleDict
Forward = Callable[[Layers, Tensor], Tensor]
TARGETS = torch.tensor([0, 1])


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def network(between: Forward) -> Functional:
    """Return a network of convolutions with something between the first two that is given the layers."""

    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = between(layers, functional.relu(layers["a"](x)))
        return layers["c"](functional.relu(layers["b"](x))).mean((2, 3))

    model = Functional(forward, a=conv(3, 8), b=conv(8, 12), c=conv(12, 5))
    draw_weights(model)
    return model


def cut(model: nn.Module, fraction: float, metric: str = "parameters", **given: Any) -> Shrunk:
    """Cut a model to a fraction of its size, and see that it computes what it does masked."""
    whole, data = copy.deepcopy(model), [(images(), TARGETS)]
    measures = given.pop("measures", {})
    value = fraction * shrink_nothing(model, metric, measures)
    asked = {"target": {"metric": metric, "value": value}, "ranking": "local", **given}
    found = shrink(model, asked, data, measures=measures)
    with torch.no_grad(), masked(whole, found.removal):
        expected = whole.eval()(images())
    assert torch.allclose(model.eval()(images()), expected, atol=1e-5)
    assert found.after <= value
    return found


def shrink_nothing(model: nn.Module, metric: str, measures: Any) -> float:
    asked = {"target": {"metric": metric, "value": 1e12}}
    return shrink(copy.deepcopy(model), asked, [(images(), TARGETS)], measures=measures).before


def narrow_differs(layers: Layers, x: Tensor) -> Tensor:
    return x if x.shape[1] > 3 else 2 * x


def narrow_fails(layers: Layers, x: Tensor) -> Tensor:
    if x.shape[1] <= 3:
        raise RuntimeError("too narrow")
    return x


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (narrow_differs, "outputs differ by"),
        (narrow_fails, "too narrow"),
    ],
)
@pytest.mark.parametrize("metric", ["parameters", "macs", "size_bytes"])
def test_a_group_at_fault_stays_whole_with_the_reason_and_others_go(
    between: Forward, said: str, metric: str
) -> None:
    model = network(between)
    found = cut(model, 0.3, metric)
    reasons = {group.name: group.why_not for group in found.groups}
    assert str(reasons["layers.a.weight"]).startswith("cannot lose ")
    assert said in str(reasons["layers.a.weight"])
    assert reasons["layers.b.weight"] is None
    assert len(model.layers["a"].weight) == 8
    assert len(model.layers["b"].weight) < 12


def test_a_fault_that_the_target_does_not_come_near_costs_nothing() -> None:
    model = network(narrow_fails)
    found = cut(model, 0.8)
    assert all(group.is_removable for group in found.groups if group.name != "layers.c.weight")
    assert len(model.layers["a"].weight) < 8


def test_every_round_is_checked() -> None:
    model = network(narrow_fails)
    found = cut(model, 0.3, rounds=4)
    assert len(found.probes) == 4
    assert len(model.layers["a"].weight) > 3


@pytest.mark.parametrize("metric", ["parameters", "macs"])
def test_a_size_at_which_the_model_does_not_run_is_out_of_reach(metric: str) -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = functional.relu(layers["a"](x)).mean((2, 3), keepdim=True).squeeze()
        return layers["c"](functional.relu(layers["b"](x)))

    model = Functional(forward, a=conv(3, 8), b=nn.Linear(8, 6), c=nn.Linear(6, 5))
    draw_weights(model)
    cut(copy.deepcopy(model), 0.6, metric)
    before = shrink_nothing(model, metric, {})
    asked = {"target": {"metric": metric, "value": 0.15 * before}}
    with pytest.raises(UnreachableTarget, match="even the smallest model is larger"):
        shrink(model, asked, [(images(), TARGETS)])
    assert model(images()).shape == (2, 5)


def test_a_removal_that_only_goes_wrong_together_is_refused() -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = functional.relu(layers["a"](x))
        narrow = x.shape[1] < 5
        x = functional.relu(layers["b"](x))
        x = 2 * x if narrow and x.shape[1] < 7 else x
        return layers["c"](x).mean((2, 3))

    model = Functional(forward, a=conv(3, 8), b=conv(8, 12), c=conv(12, 5))
    draw_weights(model)
    before = parameters(model)
    asked = {"target": {"metric": "parameters", "value": 0.3 * before}, "ranking": "local"}
    said = (
        r"each of layers.a.weight, layers.b.weight may go by itself, not all of them together: outputs diff"
    )
    with pytest.raises(MaskMismatch, match=said):
        shrink(model, asked, [(images(), TARGETS)])
    assert parameters(model) == before


def test_an_error_of_the_measure_is_its_own() -> None:
    def measure(model: nn.Module) -> float:
        if parameters(model) < 1500:
            raise RuntimeError("no clock")
        return float(parameters(model))

    model = network(lambda layers, x: x)
    asked = {"target": {"metric": "latency_ms", "value": 1000.0}}
    with pytest.raises(RuntimeError, match="no clock"):
        shrink(model, asked, [(images(), TARGETS)], measures={"latency_ms": measure})
