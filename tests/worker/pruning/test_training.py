"""A pruner that goes along with a training and prunes by itself."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.loop import compute_gradients, network, train, zeros
from worker.pruning import Pruner
from worker.pruning.errors import ReplacedWeights
from worker.pruning.rounds import plan_rounds

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}
CUBIC = {"target": {"value": 0.7}, "schedule": {"name": "cubic"}}
ONE_SHOT = {"target": {"value": 0.7}}
every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def pruned(pruner: Pruner) -> int:
    return pruner.masks.numel - pruner.masks.kept


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return OPTIMIZERS["sgd"](model.parameters())


@every_optimizer
def test_zeros_hold_when_only_the_optimizer_is_stepped(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    pruner = Pruner(model, ONE_SHOT, steps=20)
    pruner.attach(optimizer)
    for step in range(20):
        train(model, optimizer, steps=range(step, step + 1))
        assert zeros(model, pruner)
    assert sum(int((p == 0).sum()) for name, p in model.named_parameters() if name in pruner.masks) == 538


@every_optimizer
def test_the_memory_of_pruned_weights_is_zero_after_every_step(make) -> None:
    model = network()
    optimizer = make(model.parameters())
    pruner = Pruner(model, CUBIC, steps=20)
    pruner.attach(optimizer)
    weights = dict(model.named_parameters())
    for step in range(20):
        train(model, optimizer, pruner, steps=range(step, step + 1))
        for name, mask in pruner.masks.items():
            state = optimizer.state[weights[name]].values()
            assert all(not v[~mask].any() for v in state if isinstance(v, Tensor) and v.shape == mask.shape)


def test_a_run_of_known_length_prunes_as_the_rounds_are_planned() -> None:
    model = network()
    pruner = Pruner(model, CUBIC, steps=50)
    planned = plan_rounds(pruner.recipe.schedule, 50)
    pruner.attach(optimizer := sgd(model))
    assert train(model, optimizer, pruner, steps=range(50)) == list(planned)
    assert [reached.round for reached in pruner.history] == list(planned) == list(pruner.rounds)
    assert pruned(pruner) == round(0.7 * 768)


def test_the_history_says_what_each_round_reached() -> None:
    model = network()
    pruner = Pruner(model, CUBIC, steps=50)
    pruner.attach(optimizer := sgd(model))
    train(model, optimizer, pruner, steps=range(50))
    dropped = 0
    for reached in pruner.history:
        dropped += reached.dropped
        assert reached.grown == 0
        assert dropped == round(reached.round.fraction * round(0.7 * 768))
        assert reached.sparsity == pytest.approx(dropped / 768)


def test_what_is_due_before_the_first_step_is_pruned_once() -> None:
    model = network()
    pruner = Pruner(model, ONE_SHOT, steps=10)
    assert pruner.masks.sparsity == 0.0
    one, other = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model.conv1, model.fc1))
    pruner.attach(one)
    assert pruned(pruner) == 538
    pruner.attach(other)
    assert len(pruner.history) == 1
    assert pruner.step() is None


def test_without_a_number_of_steps_nothing_is_pruned_by_itself() -> None:
    model = network()
    pruner = Pruner(model, CUBIC)
    pruner.attach(optimizer := sgd(model))
    assert train(model, optimizer, pruner, steps=range(5)) == []
    assert pruner.masks.sparsity == 0.0


def test_several_optimizers_share_a_model() -> None:
    model = network()
    pruner = Pruner(model, ONE_SHOT)
    parts = [model.conv1, model.conv2, nn.ModuleList([model.fc1, model.fc2])]
    optimizers = [torch.optim.Adam(part.parameters(), lr=0.01) for part in parts]
    for optimizer in optimizers:
        pruner.attach(optimizer)
    pruner.update()
    for seed in range(5):
        compute_gradients(model, seed)
        for optimizer in optimizers:
            optimizer.step()
        assert zeros(model, pruner)


class Wrapper(torch.optim.Optimizer):
    """As accelerate wraps an optimizer: no state and no hooks of its own."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        self.optimizer.step()


def test_a_wrapped_optimizer_is_held_by_what_it_wraps() -> None:
    model = network()
    pruner = Pruner(model, ONE_SHOT, steps=3)
    pruner.attach(wrapper := Wrapper(sgd(model)))
    compute_gradients(model, 0)
    wrapper.step()
    assert zeros(model, pruner)
    pruner.detach(wrapper)
    compute_gradients(model, 1)
    wrapper.step()
    assert not zeros(model, pruner)


def test_clipped_gradients_leave_zeros_alone() -> None:
    model = network()
    pruner = Pruner(model, CUBIC, steps=20)
    pruner.attach(optimizer := sgd(model))
    for seed in range(20):
        compute_gradients(model, seed)
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        pruner.step()
        assert zeros(model, pruner)
    assert pruned(pruner) == 538


def test_a_frozen_layer_is_pruned_and_stays_as_it_is_otherwise() -> None:
    model = network()
    model.fc1.weight.requires_grad_(False)
    before = model.fc1.weight.clone()
    pruner = Pruner(model, CUBIC, steps=20)
    pruner.attach(optimizer := sgd(model))
    train(model, optimizer, pruner, steps=range(20))
    mask = pruner.masks["fc1.weight"]
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(model.fc1.weight, before * mask)


class Shared(nn.Module):
    """Two layers whose parameters are different objects over one storage."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.other.weight = nn.Parameter(self.one.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(x).relu())


@every_optimizer
def test_parameters_over_one_storage_are_pruned_once_and_held_together(make) -> None:
    model = Shared()
    optimizer = make(model.parameters())
    pruner = Pruner(model, {"target": {"value": 0.5}}, steps=10)
    pruner.attach(optimizer)
    for _ in range(10):
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        assert (model.one.weight == 0).sum() == 32
    for parameter in model.parameters():
        state = [v for v in optimizer.state[parameter].values() if isinstance(v, Tensor) and v.dim() == 2]
        assert all(not value[~pruner.masks["one.weight"]].any() for value in state)


def test_a_copy_taken_in_the_midst_of_a_training_is_sparse_and_trains_on_its_own() -> None:
    model = network()
    pruner = Pruner(model, ONE_SHOT, steps=10)
    pruner.attach(optimizer := sgd(model))
    train(model, optimizer, pruner, steps=range(5))
    twin = copy.deepcopy(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for one in (twin, average.module):
        weights = dict(one.named_parameters())
        assert all(not weights[name][~mask].any() for name, mask in pruner.masks.items())
    train(twin, sgd(twin), steps=range(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    train(model, optimizer, pruner, steps=range(5, 10))
    average.update_parameters(model)
    weights = dict(average.module.named_parameters())
    assert all(not weights[name][~mask].any() for name, mask in pruner.masks.items())


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda model: torch.compile(model, backend="eager")],
    ids=["parallel", "compile"],
)
def test_a_wrapped_model_is_pruned_like_its_own(wrap) -> None:
    model = network()
    wrapped = wrap(model)
    pruner = Pruner(wrapped, CUBIC, steps=10)
    pruner.attach(optimizer := sgd(wrapped))
    for seed in range(10):
        compute_gradients(model, seed)
        optimizer.step()
        pruner.step()
    pruner.finish().apply(model)
    assert zeros(wrapped, pruner)
    assert pruned(pruner) == 538


def test_a_closure_is_stepped_as_well() -> None:
    model = network()
    pruner = Pruner(model, ONE_SHOT, steps=3)
    pruner.attach(optimizer := torch.optim.LBFGS(model.parameters(), lr=0.01, max_iter=2))

    def closure() -> Tensor:
        compute_gradients(model, 0)
        return torch.tensor(0.0)

    optimizer.step(closure)
    assert zeros(model, pruner)


def test_weights_that_were_replaced_are_noticed_before_it_says_that_they_are_pruned() -> None:
    model = network()
    pruner = Pruner(model, CUBIC, steps=10)
    pruner.attach(optimizer := sgd(model))
    train(model, optimizer, pruner, steps=range(3))
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    with pytest.raises(ReplacedWeights, match=r"assign=True"):
        pruner.finish()


def test_a_training_that_stops_early_ends_at_the_full_target() -> None:
    model = network()
    pruner = Pruner(model, CUBIC, steps=100)
    pruner.attach(optimizer := sgd(model))
    train(model, optimizer, pruner, steps=range(20))
    assert 0 < pruned(pruner) < 538
    masks = pruner.finish()
    assert masks.numel - masks.kept == 538
    assert zeros(model, pruner)
    assert pruner.finish() == masks
    assert pruner.history[-1].round.step == 20


def test_a_finished_pruner_leaves_the_optimizer_alone() -> None:
    model = network()
    pruner = Pruner(model, ONE_SHOT, steps=5)
    pruner.attach(optimizer := sgd(model))
    pruner.finish()
    train(model, optimizer, steps=range(2))
    assert not zeros(model, pruner)


def test_rewinding_brings_back_weights_and_statistics_but_not_what_is_pruned() -> None:
    model = network()
    initial = copy.deepcopy(model.state_dict())
    pruner = Pruner(model, CUBIC, steps=20)
    pruner.attach(optimizer := sgd(model))
    train(model, optimizer, pruner, steps=range(20))
    assert not torch.equal(model.bn1.running_mean, initial["bn1.running_mean"])
    pruner.rewind(initial)
    masks = pruner.masks
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, initial[name] * masks[name] if name in masks else initial[name])
    assert not optimizer.state


def test_a_run_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        Pruner(network(), CUBIC, steps=0)


def test_weights_loaded_in_the_midst_are_not_mixed_with_those_that_come_back() -> None:
    torch.manual_seed(0)
    model = nn.Linear(16, 8, bias=False)
    schedule = {"name": "linear"}
    pruner = Pruner(
        model, {"criterion": {"name": "movement"}, "schedule": schedule, "target": {"value": 0.5}}
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pruner.attach(optimizer)
    model(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    before = model.weight.detach().clone()
    pruned = ~pruner.update(1.0)["weight"]
    model.load_state_dict({"weight": torch.full_like(before, 5.0)})
    back = pruner.update(0.2)["weight"] & pruned
    assert back.any()
    assert torch.equal(model.weight[back], before[back])
