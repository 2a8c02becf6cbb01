"""Several trainings, a pruning between them: iterative rounds and lottery tickets."""

import copy

import pytest
import torch
from torch import nn

from tests.worker.pruning.loop import network, train, zeros
from worker.pruning import Pruner
from worker.pruning.errors import NeedsTraining, NoCycle

TICKET = {
    "target": {"value": 0.8},
    "schedule": {"name": "lottery_ticket", "params": {"rounds": 3, "controls": ["random_mask"]}},
}
ITERATIVE = {
    "target": {"value": 0.8},
    "schedule": {"name": "iterative", "params": {"rounds": 4, "spacing": "linear"}},
}
# Of 768 weights 614 go in the end; the densities in between are 0.2^(1/3) and 0.2^(2/3).
AFTER_EACH = [319, 505, 614]


def pruned(pruner: Pruner) -> int:
    return pruner.masks.numel - pruner.masks.kept


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def test_a_ticket_is_trained_dense_then_pruned_and_rewound_in_every_round() -> None:
    model = network()
    initial = copy.deepcopy(model.state_dict())
    pruner = Pruner(model, TICKET, steps=5)
    pruner.attach(optimizer := sgd(model))
    assert pruner.cycles is not None
    assert (pruner.cycles.rewind_fraction, pruner.cycles.controls) == (0.0, ("random_mask",))
    assert train(model, optimizer, pruner, steps=range(5)) == []
    assert pruned(pruner) == 0
    counts = []
    for number in range(1, pruner.cycles.rounds + 1):
        before = pruner.masks
        planned = pruner.next_cycle()
        assert (planned.number, planned.step) == (number, 0)
        assert (pruner.masks - before).kept == 0
        counts.append(pruned(pruner))
        pruner.rewind(initial)
        assert torch.equal(model.fc1.weight, initial["fc1.weight"] * pruner.masks["fc1.weight"])
        assert train(model, optimizer, pruner, steps=range(5)) == []
        assert zeros(model, pruner)
    assert counts == AFTER_EACH
    assert [reached.sparsity for reached in pruner.history] == pytest.approx([n / 768 for n in AFTER_EACH])
    assert pruner.finish().kept == 768 - 614


def test_iterative_rounds_prune_before_each_training_and_go_on_from_its_weights() -> None:
    model = network()
    pruner = Pruner(model, ITERATIVE, steps=5)
    pruner.attach(optimizer := sgd(model))
    counts = [pruned(pruner)]
    assert pruner.cycles is not None
    while len(counts) < pruner.cycles.rounds:
        train(model, optimizer, pruner, steps=range(5))
        before = model.fc1.weight.clone()
        pruner.next_cycle()
        assert torch.equal(model.fc1.weight, before * pruner.masks["fc1.weight"])
        counts.append(pruned(pruner))
    assert counts == [round(614 * i / 4) for i in (1, 2, 3, 4)]
    assert len(pruner.history) == 4


def test_equal_shares_count_on_the_sparsity_asked_for_and_on_the_parameter_otherwise() -> None:
    schedule = {"name": "lottery_ticket", "params": {"rounds": 2, "final_density": 0.25}}
    by_sparsity = Pruner(network(), {"target": {"value": 0.96}, "schedule": schedule})
    by_size = Pruner(network(), {"target": {"metric": "parameters", "value": 200}, "schedule": schedule})
    assert by_sparsity.cycles is not None
    assert by_size.cycles is not None
    assert by_sparsity.cycles.fraction_after(1) == pytest.approx((1 - 0.2) / 0.96)
    assert by_size.cycles.fraction_after(1) == pytest.approx((1 - 0.5) / 0.75)


def test_there_is_no_cycle_after_the_last_and_none_in_other_schedules() -> None:
    pruner = Pruner(network(), ITERATIVE)
    for _ in range(4):
        pruner.next_cycle()
    with pytest.raises(NoCycle, match="all 4 rounds are done"):
        pruner.next_cycle()
    with pytest.raises(NoCycle, match="one_shot has no cycles"):
        Pruner(network(), {"target": {"value": 0.5}}).next_cycle()


def test_a_finish_before_the_last_cycle_reaches_the_target() -> None:
    model = network()
    pruner = Pruner(model, ITERATIVE, steps=5)
    pruner.attach(optimizer := sgd(model))
    train(model, optimizer, pruner, steps=range(5))
    assert pruner.finish().kept == 768 - 614


def test_cycles_go_on_where_a_restored_state_stands() -> None:
    model = network()
    pruner = Pruner(model, ITERATIVE, steps=5)
    pruner.attach(sgd(model))
    pruner.next_cycle()
    again = copy.deepcopy(model)
    restored = Pruner(again, ITERATIVE, steps=5)
    restored.load_state_dict(pruner.state_dict())
    restored.attach(sgd(again))
    assert restored.masks == pruner.masks
    assert restored.next_cycle() == pruner.next_cycle()
    assert restored.masks == pruner.masks


def test_a_ticket_can_be_found_by_movement_which_needs_the_dense_training() -> None:
    recipe = {**TICKET, "criterion": {"name": "movement"}}
    model = network()
    initial = copy.deepcopy(model.state_dict())
    pruner = Pruner(model, recipe, steps=5)
    pruner.attach(optimizer := sgd(model))
    for count in AFTER_EACH:
        train(model, optimizer, pruner, steps=range(5))
        pruner.next_cycle()
        assert pruned(pruner) == count
        pruner.rewind(initial)
    with pytest.raises(NeedsTraining):
        Pruner(network(), {**ITERATIVE, "criterion": {"name": "movement"}}, steps=5).attach(sgd(model))
