"""What a training loop holds: updates, steps, state."""

import copy
import gc
import itertools
import weakref

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.networks import ConvNet, batches, fill
from worker.pruning import Pruner, prune
from worker.pruning.errors import MaskMismatch

RECIPE = {"target": {"value": 0.7}}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
}


def network(seed: int = 0) -> ConvNet:
    model = ConvNet()
    fill(model, seed, tied=False)
    return model


def train_a_step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    (x, y), *_ = batches(model, seed)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def state_at_pruned(pruner: Pruner, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    parameters = dict(pruner.model.named_parameters())
    return [
        value[~mask]
        for name, mask in pruner.masks.items()
        for value in optimizer.state[parameters[name]].values()
        if isinstance(value, Tensor) and value.shape == mask.shape
    ]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_brings_a_pruned_weight_back(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train_a_step(model, optimizer, 0)
    pruner = Pruner(model, RECIPE)
    pruner.attach(optimizer)
    masks = pruner.update()
    for seed in range(3):
        train_a_step(model, optimizer, seed)
        pruner.step()
        weights = dict(model.named_parameters())
        assert all(not weights[name][~mask].any() for name, mask in masks.items())
        state = state_at_pruned(pruner, optimizer)
        assert state
        assert all(not value.any() for value in state)


def test_before_the_first_update_everything_is_kept() -> None:
    pruner = Pruner(network(), RECIPE)
    assert pruner.masks.sparsity == 0.0
    assert set(pruner.masks) == {"conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"}


def test_a_step_before_the_first_update_changes_nothing() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    Pruner(model, RECIPE).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_sparsity_of_each_update_is_the_schedules_fraction_of_the_target() -> None:
    pruner = Pruner(network(), {**RECIPE, "schedule": {"name": "cubic"}})
    for step in range(11):
        masks = pruner.update(step / 10)
        due = (1 - (1 - step / 10) ** 3) * round(0.7 * 768)
        assert masks.numel - masks.kept == round(due)


def test_a_pruned_weight_may_be_revived_when_asked() -> None:
    model = nn.Linear(4, 1, bias=False)
    pruner = Pruner(model, {"target": {"value": 0.5}})
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2, 3, 4]]))
        pruner.update()
        model.weight.copy_(torch.tensor([[9.0, 0, 3, 4]]))
    assert pruner.update()["weight"].long().tolist() == [[0, 0, 1, 1]]
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[9.0, 0, 3, 4]]))
    assert pruner.update(may_revive=True)["weight"].long().tolist() == [[1, 0, 0, 1]]


def test_restored_state_goes_on_as_if_nothing_had_happened() -> None:
    recipe = {**RECIPE, "schedule": {"name": "linear"}, "criterion": {"name": "random"}}
    one = network()
    first = Pruner(one, recipe, seed=5)
    first.update(0.5)
    other = copy.deepcopy(one)
    second = Pruner(other, recipe)
    second.load_state_dict(first.state_dict())
    assert second.masks == first.masks
    assert second.update(1.0) == first.update(1.0)


def test_restoring_masks_makes_the_weights_zero() -> None:
    pruned, dense = network(), network(1)
    first = Pruner(pruned, RECIPE)
    first.update()
    second = Pruner(dense, RECIPE)
    second.load_state_dict(first.state_dict())
    weights = dict(dense.named_parameters())
    assert all(not weights[name][~mask].any() for name, mask in first.masks.items())


def test_state_of_another_recipe_or_model_is_refused() -> None:
    state = Pruner(network(), RECIPE).state_dict()
    with pytest.raises(MaskMismatch, match="another recipe"):
        Pruner(network(), {"target": {"value": 0.5}}).load_state_dict(state)
    pruner = Pruner(network(), RECIPE)
    pruner.update()
    with pytest.raises(MaskMismatch, match=r"not pruned here: conv1\.weight"):
        Pruner(nn.Linear(2, 2), RECIPE).load_state_dict(pruner.state_dict())


def test_the_model_stays_a_plain_module_that_can_be_copied() -> None:
    model = network()
    names, kind = set(model.state_dict()), type(model)
    prune(model, RECIPE)
    twin = copy.deepcopy(model)
    assert set(twin.state_dict()) == names
    assert type(twin) is kind
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_data_that_can_be_read_once_serves_every_update() -> None:
    model = network()
    recipe = {**RECIPE, "criterion": {"name": "taylor"}, "schedule": {"name": "linear"}}
    pruner = Pruner(model, recipe, iter(batches(model)))
    assert pruner.update(0.5).sparsity < pruner.update(1.0).sparsity


def test_gradients_that_are_there_survive_an_update() -> None:
    model = network()
    (x, y), *_ = data = batches(model)
    nn.functional.cross_entropy(model(x), y).backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    Pruner(model, {**RECIPE, "criterion": {"name": "taylor"}}, data).update()
    after = [parameter.grad for parameter in model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert model.training


def test_a_criterion_that_updates_weights_lowers_the_error_of_its_layer() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 16) @ torch.randn(16, 16)
    data = [(x, torch.zeros(64, dtype=torch.int64))]
    dense = nn.Linear(16, 16)
    errors = {}
    for name in ("wanda", "sparsegpt"):
        model = copy.deepcopy(dense)
        masks = prune(model, {"criterion": {"name": name}, "target": {"value": 0.5}}, data)
        assert not model.weight[~masks["weight"]].any()
        errors[name] = (model(x) - dense(x)).square().mean().item()
    assert errors["sparsegpt"] < errors["wanda"]


def test_two_pruners_share_nothing() -> None:
    pruners = [Pruner(network(), {"target": {"value": value}}) for value in (0.2, 0.8)]
    sparsities = [pruner.update().sparsity for pruner in pruners]
    assert sparsities == pytest.approx([0.2, 0.8], abs=0.001)
    assert pruners[0].masks.sparsity == sparsities[0]
    for one, other in itertools.combinations(pruners, 2):
        assert one.masks["conv1.weight"] is not other.masks["conv1.weight"]


def test_pruning_in_inference_mode_and_in_training_mode_is_the_same() -> None:
    one, other = network(), network().eval()
    with torch.inference_mode():
        first = prune(other, RECIPE)
    assert prune(one, RECIPE) == first


def test_a_model_is_freed_with_its_last_name_and_not_by_the_garbage_collector() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gc.collect()
    gc.disable()
    try:
        pruner = Pruner(model, RECIPE)
        pruner.attach(optimizer)
        pruner.update(1.0)
        pruner.finish()
        prune(model, RECIPE)
        is_there = weakref.ref(model)
        del model, pruner, optimizer
        assert is_there() is None
    finally:
        gc.enable()
