"""A cut that a model cannot do without is found before it counts, whatever shows it, and is not made."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.pruning.removal.drawing import draw_weights, find_and_prove, halve
from tests.worker.pruning.removal.traps import Functional, conv, images
from worker.pruning.errors import MaskMismatch, UnreachableTarget
from worker.pruning.removal.shrinking import Shrunk, shrink
from worker.pruning.removal.soundness import find_fault
from worker.pruning.removal.surgery import masked
from worker.pruning.removal.trials import make_trials

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

    model = Functional(forward, a=conv(3, 8), b=conv(8, 12), c=conv(12, 5), aux=nn.Conv2d(8, 8, 1))
    draw_weights(model)
    return model


def cut(model: nn.Module, fraction: float, metric: str = "parameters", **given: Any) -> Shrunk:
    """Cut a model to a fraction of its size, and see that it computes what it does masked, and trains."""
    whole, data = copy.deepcopy(model), [(images(), TARGETS)]
    measures = given.pop("measures", {})
    value = fraction * shrink_nothing(model, metric, measures)
    asked = {"target": {"metric": metric, "value": value}, "ranking": "local", **given}
    found = shrink(model, asked, data, measures=measures)
    with torch.no_grad(), masked(whole, found.removal):
        expected = whole.eval()(images())
    assert torch.allclose(model.eval()(images()), expected, atol=1e-5)
    assert found.after <= value
    model.train()(images()).sum().backward()
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


def trains_aside(layers: Layers, x: Tensor) -> Tensor:
    return x + layers["aux"](x) if layers.training else x


def alone_differs(layers: Layers, x: Tensor) -> Tensor:
    return x if len(x) > 1 else x.shape[1] * x


def small_differs(layers: Layers, x: Tensor) -> Tensor:
    return x if x.shape[-1] == 6 else x.shape[1] * x


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (narrow_differs, "outputs differ by"),
        (narrow_fails, "too narrow"),
        (trains_aside, "in training, Given groups=1, weight of size [8, 8, 1, 1]"),
        (alone_differs, "outputs differ by"),
        (small_differs, "outputs differ by"),
    ],
)
# A file of so few weights is a fifth header.
@pytest.mark.parametrize(("metric", "share"), [("parameters", 0.3), ("macs", 0.3), ("size_bytes", 0.4)])
def test_a_group_at_fault_stays_whole_with_the_reason_and_others_go(
    between: Forward, said: str, metric: str, share: float
) -> None:
    model = network(between)
    found = cut(model, share, metric)
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


def test_a_model_that_does_not_train_as_it_is_can_be_cut() -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        if layers.training:
            raise ValueError("expected targets in training")
        return layers["b"](functional.relu(layers["a"](x))).mean((2, 3))

    model = Functional(forward, a=conv(3, 8), b=conv(8, 5))
    draw_weights(model)
    asked = {"target": {"metric": "parameters", "value": 0.5 * parameters(model)}}
    shrink(model, asked, [(images(), TARGETS)])
    assert len(model.layers["a"].weight) <= 4  # type: ignore[arg-type]


def test_a_check_leaves_statistics_gradients_random_numbers_and_modes_as_they_were() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.Dropout(), conv(8, 6), nn.BatchNorm2d(6))
    draw_weights(model)
    model.train()[1].eval()
    model(images()).sum().backward()
    removal = halve(model, find_and_prove(model, images()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = {name: one.grad for name, one in model.named_parameters()}
    objects, random = list(model.parameters()), torch.get_rng_state()
    assert find_fault(model, removal, make_trials(images())) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(one.grad is gradients[name] for name, one in model.named_parameters())
    assert all(one is other for one, other in zip(model.parameters(), objects, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model] == [True, False, True, True, True]


@pytest.mark.parametrize("is_trained", [True, False])
def test_neither_a_loss_that_is_still_held_nor_frozen_weights_are_a_fault(is_trained: bool) -> None:
    model = network(lambda layers, x: x).requires_grad_(is_trained)
    loss = model(images()).sum()
    removal = halve(model, find_and_prove(model, images()))
    assert find_fault(model, removal, make_trials(images())) is None
    assert loss.requires_grad is is_trained


def test_inside_of_inference_mode_training_is_checked_all_the_same() -> None:
    model = network(trains_aside)
    removal, trials = halve(model, find_and_prove(model, images())), make_trials(images())
    with torch.inference_mode():
        assert "in training" in str(find_fault(model, removal, trials))


def shapes(inputs: Any) -> list[Any]:
    """Return the shapes that a model is given by the trials over a batch, dense first."""
    seen: list[Any] = []

    def note(*args: Tensor, **kwargs: Tensor) -> None:
        seen.append([tuple(one.shape) for one in (*args, *kwargs.values())])

    trials = make_trials(inputs)
    for run in (trials.run, *trials.others):
        run(note)  # type: ignore[arg-type]  # called as a model is
    return seen


def test_trials_are_of_two_samples_of_one_and_of_half_the_size() -> None:
    assert shapes(torch.zeros(8, 3, 6, 5)) == [[(2, 3, 6, 5)], [(1, 3, 6, 5)], [(2, 3, 3, 3)]]
    assert shapes(torch.zeros(8, 7, 4)) == [[(2, 7, 4)], [(1, 7, 4)], [(2, 4, 4)], [(2, 7, 2)]]
    assert shapes(torch.zeros(8, 5)) == [[(2, 5)], [(1, 5)]]
    tokens = torch.zeros(8, 5, dtype=torch.int64)
    named = {"input_ids": tokens, "attention_mask": tokens}
    assert shapes(named) == [[(2, 5), (2, 5)], [(1, 5), (1, 5)], [(2, 3), (2, 3)]]
    mixed = (torch.zeros(8, 3, 4, 4), torch.zeros(8))
    assert shapes(mixed) == [[(2, 3, 4, 4), (2,)], [(1, 3, 4, 4), (1,)], [(2, 3, 2, 2), (2,)]]
