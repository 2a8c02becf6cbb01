"""A model cut down to a target: exact sizes, rounds, and what cannot be had."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.worker.pruning.removal.small_network import DATA, MACS, network, parameters, structure
from worker.pruning.errors import (
    MissingData,
    NeedsTraining,
    NothingToPrune,
    UnreachableTarget,
    UnsupportedTarget,
)
from worker.pruning.recipe import InvalidRecipe
from worker.pruning.registry import entries
from worker.pruning.removal.shrinking import shrink
from worker.pruning.removal.surgery import remove


@pytest.mark.parametrize("metric", ["parameters", "macs", "size_bytes"])
def test_the_first_size_within_the_target_is_taken(metric: str) -> None:
    model = network()
    whole = shrink(copy.deepcopy(model), structure(target={"metric": metric, "value": 1e12}), DATA)
    assert whole.before == whole.after
    limit = 0.55 * whole.before
    found = shrink(model, structure(target={"metric": metric, "value": limit}), DATA)
    assert found.after <= limit
    # One unit less and the model would be too large: what was tried below the count says so.
    (probes,) = found.probes
    sizes = {probe.removed: probe.value for probe in probes}
    taken = min(count for count, value in sizes.items() if value <= limit)
    assert sizes[taken] == found.after
    assert sizes[taken - 1] > limit


def test_the_removal_makes_the_same_model_of_a_fresh_copy() -> None:
    model, fresh = network(), network()
    found = shrink(model, structure(rounds=3), DATA)
    remove(fresh, found.removal)
    assert len(found.probes) == 3
    assert parameters(model) <= 40_000
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert repr(model) == repr(fresh)


@pytest.mark.parametrize(
    ("groups", "rounds", "ranking", "share"), [(8, 3, "local", 0.15), (4, 8, "global", 0.08)]
)
def test_a_grouped_convolution_that_is_left_with_one_channel_a_group_loses_none_of_its_groups(
    groups: int, rounds: int, ranking: str, share: float
) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=groups), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)),
        )

    model, fresh = build(), build()
    target = {"metric": "parameters", "value": share * parameters(model)}
    given = structure(target=target, rounds=rounds, ranking=ranking, max_fraction=1.0)
    found = shrink(model, given, DATA)
    remove(fresh, found.removal)
    assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert repr(model) == repr(fresh)
    convolution = model[2]
    assert convolution.in_channels == convolution.groups == groups


def test_every_criterion_that_can_score_finds_an_order() -> None:
    for name, entry in entries("criterion").items():
        if "training" in entry.needs:
            with pytest.raises(NeedsTraining):
                shrink(network(), structure(criterion={"name": name}), DATA)
            continue
        kinds = ["channel"]
        model = network()
        shrink(model, structure(criterion={"name": name}, kinds=kinds), DATA)
        assert parameters(model) <= 40_000, name


def test_what_rows_take_in_the_first_round_may_cost_what_is_allowed_in_all() -> None:
    model = network()
    whole = parameters(model)
    given = structure(
        target={"metric": "accuracy_drop", "value": 0.9},
        rounds=4,
        layers=[{"match": "*", "set": {"min_sparsity": 0.5}}],
    )
    # More than half of the parameters go with half of the channels: over a quarter of the limit at once.
    found = shrink(model, given, DATA, measures={"accuracy_drop": lambda one: 1.0 - parameters(one) / whole})
    assert 0.5 < found.after <= 0.9
    assert len(found.probes[0]) == 1
    assert parameters(model) < 0.5 * whole


def test_a_target_below_the_smallest_model_names_the_nearest() -> None:
    with pytest.raises(UnreachableTarget, match="even the smallest model is larger") as caught:
        shrink(network(), structure(target={"metric": "parameters", "value": 10}), DATA)
    model = network()
    shrink(model, structure(target={"metric": "parameters", "value": caught.value.nearest}), DATA)
    assert parameters(model) == caught.value.nearest


def test_the_most_is_removed_that_a_measured_drop_allows() -> None:
    model = network()
    before = parameters(model)

    def drop(one: nn.Module) -> float:
        return 1.0 - parameters(one) / before

    asked = structure(target={"metric": "accuracy_drop", "value": 0.5})
    found = shrink(model, asked, DATA, measures={"accuracy_drop": drop})
    assert 0.4 < drop(model) <= 0.5
    assert found.after == drop(model)
    (probes,) = found.probes
    assert len(probes) <= 12
    assert max(probe.value for probe in probes if probe.value <= 0.5) == found.after


@pytest.mark.parametrize("metric", ["latency_ms", "accuracy_drop"])
def test_what_only_the_caller_can_measure_is_asked_for(metric: str) -> None:
    with pytest.raises(UnsupportedTarget, match=f"measures\\['{metric}'\\]"):
        shrink(network(), structure(target={"metric": metric, "value": 1.0}), DATA)


@pytest.mark.parametrize(
    ("given_structure", "said"),
    [
        ({"target": {"metric": "sparsity", "value": 0.5}}, "leaves no zeros"),
        ({"target": MACS, "kinds": []}, "kinds"),
        ({"target": MACS, "kinds": ["layers"]}, "kinds"),
        ({"target": MACS, "multiple_of": 0}, "multiple_of"),
        ({"target": MACS, "max_fraction": 1.5}, "max_fraction"),
        ({"target": MACS, "ranking": "best"}, "ranking"),
        ({}, "target"),
    ],
)
def test_a_structure_that_is_not_valid_names_its_field(given_structure: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        shrink(network(), given_structure, DATA)


def test_without_data_or_anything_to_remove_the_reason_is_said() -> None:
    with pytest.raises(MissingData):
        shrink(network(), structure(), [])
    with pytest.raises(NothingToPrune, match="is a neuron, and head are asked for"):
        shrink(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10)), structure(kinds=["head"]), DATA
        )


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 99))
def test_a_random_order_is_the_seed_s(seed: int) -> None:
    first, second = network(), network()
    for model in (first, second):
        shrink(model, structure(criterion={"name": "random"}), DATA, seed=seed)
    states: list[dict[str, Tensor]] = [model.state_dict() for model in (first, second)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
