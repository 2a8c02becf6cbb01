"""A run that is stopped and restored goes on to the same bits."""

import copy
import json

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.worker.pruning.loop import network, train
from tests.worker.pruning.networks import batches
from worker.pruning import Pruner
from worker.pruning.errors import MaskMismatch

ONE_SHOT = {"target": {"value": 0.7}}
CUBIC = {**ONE_SHOT, "schedule": {"name": "cubic"}}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def as_stored(state: object, tensors: dict[str, Tensor], path: str = "") -> object:
    """Split a state into plain JSON and tensors; a tensor leaves its path behind."""
    if isinstance(state, Tensor):
        tensors[path] = state.clone()
        return {"tensor": path}
    if isinstance(state, dict):
        assert all(isinstance(key, str) for key in state)
        return {key: as_stored(value, tensors, f"{path}/{key}") for key, value in state.items()}
    if isinstance(state, list):
        return [as_stored(value, tensors, f"{path}/{i}") for i, value in enumerate(state)]
    assert state is None or isinstance(state, str | int | float | bool)
    return state


def as_read(stored: object, tensors: dict[str, Tensor]) -> object:
    if isinstance(stored, dict):
        if set(stored) == {"tensor"}:
            return tensors[stored["tensor"]]
        return {key: as_read(value, tensors) for key, value in stored.items()}
    return [as_read(value, tensors) for value in stored] if isinstance(stored, list) else stored


RESUMED = {
    "cubic": CUBIC,
    "movement": {**CUBIC, "criterion": {"name": "movement"}},
    "movement_soft": {
        **CUBIC,
        # Fast enough that scores fall under the threshold in so few steps.
        "criterion": {"name": "movement_soft", "params": {"score_learning_rate": 0.3}},
    },
    "rigl": {**ONE_SHOT, "schedule": {"name": "rigl", "params": {"interval_fraction": 0.1}}},
    # What it measures before the first round counts for all of them.
    "sensitivity": {**CUBIC, "allocation": {"name": "sensitivity"}},
    "set": {**ONE_SHOT, "schedule": {"name": "set", "params": {"interval_fraction": 0.1}}},
}


@pytest.mark.parametrize("recipe", RESUMED.values(), ids=RESUMED)
@settings(max_examples=4, deadline=None)
@example(stop=8)
@given(stop=st.integers(0, 30))
def test_a_run_that_is_stopped_and_restored_ends_with_the_same_bits(recipe: dict, stop: int) -> None:
    steps = 30
    model = network()
    pruner = Pruner(model, recipe, batches(model), steps=steps, seed=3)
    pruner.attach(optimizer := adamw(model))
    train(model, optimizer, pruner, steps=range(stop))

    tensors: dict[str, Tensor] = {}
    text = json.dumps(as_stored(pruner.state_dict(), tensors))
    again = network(9)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    restored = Pruner(again, recipe, batches(again), steps=steps)
    restored.load_state_dict(as_read(json.loads(text), tensors))
    other = adamw(again)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    restored.attach(other)

    for one, moved, keeper in ((model, optimizer, pruner), (again, other, restored)):
        train(one, moved, keeper, steps=range(stop, steps))
        keeper.finish()
    assert restored.history == pruner.history
    assert restored.masks == pruner.masks
    final = model.state_dict()
    assert all(torch.equal(tensor, final[name]) for name, tensor in again.state_dict().items())


def test_a_state_of_a_run_of_another_length_is_refused() -> None:
    state = Pruner(network(), CUBIC, steps=30).state_dict()
    with pytest.raises(MaskMismatch, match="a run of 30 steps, this one has 40"):
        Pruner(network(), CUBIC, steps=40).load_state_dict(state)


def test_a_state_that_was_saved_before_it_held_measured_damage_loads() -> None:
    pruner = Pruner(network(), CUBIC, steps=30)
    state = {name: value for name, value in pruner.state_dict().items() if name != "damage"}
    pruner.load_state_dict(state)
    assert pruner.state_dict()["damage"] == {}
