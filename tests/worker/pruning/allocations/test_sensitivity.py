"""Every layer is pruned until it does the same damage."""

import pytest
import torch
from torch import Tensor, nn

from worker.pruning import Measured, Pruner, prune
from worker.pruning.errors import MissingData, NonfiniteLoss


class TwoLayers(nn.Module):
    """The output is that of one layer; the other is multiplied by zero and so harmless."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.idle, self.busy = nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.busy(x) + 0.0 * self.idle(x)


def recipe(value: float = 0.5, **params: object) -> dict[str, object]:
    return {"allocation": {"name": "sensitivity", "params": params}, "target": {"value": value}}


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def data(model: TwoLayers) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(16, 20, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return [(x, model(x))]


def test_the_layer_that_does_no_harm_is_pruned_and_the_other_is_spared() -> None:
    model = TwoLayers()
    sparsities = prune(model, recipe(), data(model), squared).sparsities()
    assert sparsities["idle.weight"] > 0.95
    assert sum(sparsities.values()) == pytest.approx(1.0)


def test_measured_damage_is_handed_back_and_reused_without_data() -> None:
    model = TwoLayers()
    measured = Measured()
    first = prune(model, recipe(), data(model), squared, measured=measured)
    assert {name: sorted(curve) for name, curve in measured.damage.items()} == {
        name: [100, 200, 300, 360] for name in ("busy.weight", "idle.weight")
    }
    assert prune(TwoLayers(), recipe(), measured=measured) == first


def test_equal_damage_is_what_the_curves_say() -> None:
    # Loss rises of 1 a tenth and of 3 a tenth of the layer: three times as far in the first, 0.75 and 0.25.
    damage = {"busy.weight": {400: 30.0}, "idle.weight": {400: 10.0}}
    sparsities = prune(TwoLayers(), recipe(levels=[1.0]), measured=Measured(damage=damage)).sparsities()
    assert sparsities == pytest.approx({"busy.weight": 0.25, "idle.weight": 0.75}, abs=0.0026)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = TwoLayers()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = Pruner(model, recipe(0.0), data(model), squared)
    pruner.update()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_data_or_measurements_it_says_what_it_needs() -> None:
    with pytest.raises(MissingData, match="measuring sensitivity needs data"):
        prune(TwoLayers(), recipe())


def test_a_loss_that_is_no_number_is_an_error() -> None:
    model = TwoLayers()
    with pytest.raises(NonfiniteLoss, match="the loss is nan"):
        prune(model, recipe(), data(model), lambda outputs, targets: outputs.sum() * float("nan"))


def test_layers_are_told_apart_by_what_the_same_sparsity_of_each_costs() -> None:
    # Half of both are pruned: 200 of 400 weights, between what was measured at 100 and at 300.
    damage = {"busy.weight": {100: 1.0, 300: 5.0}, "idle.weight": {100: 0.0, 300: -0.5}}
    pruner = Pruner(TwoLayers(), recipe(levels=[0.25, 0.75]), measured=Measured(damage=damage))
    pruner.update()
    assert pruner.sensitivity() == pytest.approx({"busy.weight": 3.0, "idle.weight": -0.25})


def test_beyond_what_was_measured_it_rises_as_at_the_end() -> None:
    damage = {name: {100: 1.0, 200: 3.0} for name in ("busy.weight", "idle.weight")}
    pruner = Pruner(TwoLayers(), recipe(0.75, levels=[0.25, 0.5]), measured=Measured(damage=damage))
    pruner.update()
    assert pruner.sensitivity() == pytest.approx({"busy.weight": 5.0, "idle.weight": 5.0})


def test_another_allocation_measures_no_sensitivity() -> None:
    pruner = Pruner(TwoLayers(), {"target": {"value": 0.5}})
    pruner.update()
    assert pruner.sensitivity() == {}
