"""A model cut down to a target: laws of the order, exact sizes, rows, rounds, and what cannot be had."""

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.worker.pruning.removal.drawing import draw_weights
from worker.models.registry import build
from worker.pruning.errors import (
    ContradictoryRows,
    MissingData,
    NeedsTraining,
    NothingToPrune,
    UnreachableTarget,
    UnsupportedTarget,
)
from worker.pruning.recipe import InvalidRecipe
from worker.pruning.registry import entries
from worker.pruning.removal.groups import Cut, Group
from worker.pruning.removal.ranking import find_limits, order_units
from worker.pruning.removal.recipe import Structure
from worker.pruning.removal.shrinking import find_removable, shrink
from worker.pruning.removal.surgery import remove
from worker.pruning.removal.tracer import Axis

GENERATOR = torch.Generator().manual_seed(4)
DATA = [(torch.randn(8, 1, 8, 8, generator=GENERATOR), torch.arange(8) % 10) for _ in range(2)]
MACS = {"metric": "macs", "value": 200_000}


RANKINGS = ["global", "local", "isomorphic", "uniform"]


def network() -> nn.Module:
    module = build({"name": "resnet8x8", "params": {}}).module
    draw_weights(module)
    return module


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def group(name: str, units: int) -> Group:
    return Group(name, "neuron", (Cut(Axis(name, 0), torch.arange(units)[:, None]),))


def structure(**given: Any) -> dict[str, Any]:  # Any: JSON
    return {"target": {"metric": "parameters", "value": 40_000}, **given}


scores = st.lists(st.lists(st.floats(0, 8, width=16), min_size=2, max_size=9), min_size=1, max_size=4)


@given(scores, st.sampled_from(RANKINGS), st.sampled_from([1, 2, 4]), st.data())
def test_no_unit_that_stays_is_less_important_than_one_of_its_group_that_goes(
    rows: list[list[float]], ranking: Any, multiple_of: int, data: st.DataObject
) -> None:
    groups = [group(f"g{number}.weight", len(row)) for number, row in enumerate(rows)]
    given_scores = {one.name: torch.tensor(row) for one, row in zip(groups, rows, strict=True)}
    limits = {one.name: find_limits(one.units, low=0.0, high=1.0) for one in groups}
    order = order_units(groups, given_scores, limits, ranking=ranking, multiple_of=multiple_of)
    assert order.count_units(len(order.steps)) == sum(len(row) - 1 for row in rows)
    kept = order.keep(data.draw(st.integers(0, len(order.steps))))
    for name, mask in kept.items():
        assert mask.any()
        assert int(mask.sum()) % multiple_of == 0 or mask.all() or int(mask.sum()) < multiple_of <= len(mask)
        if not mask.all():
            assert given_scores[name][mask].min() >= given_scores[name][~mask].max()


@given(scores, st.sampled_from(["global", "local", "isomorphic"]))
def test_removing_more_never_brings_a_unit_back(rows: list[list[float]], ranking: Any) -> None:
    groups = [group(f"g{number}.weight", len(row)) for number, row in enumerate(rows)]
    given_scores = {one.name: torch.tensor(row) for one, row in zip(groups, rows, strict=True)}
    limits = {one.name: find_limits(one.units, low=0.2, high=0.8) for one in groups}
    order = order_units(groups, given_scores, limits, ranking=ranking)
    steps = [order.keep(count) for count in range(order.forced, len(order.steps) + 1)]
    for before, after in itertools.pairwise(steps):
        assert all(bool((before[name] | ~after[name]).all()) for name in before)
        assert (
            sum(int(mask.sum()) for mask in after.values())
            == sum(map(int, map(torch.sum, before.values()))) - 1
        )


def test_uniform_ranking_leaves_groups_of_one_make_at_one_size() -> None:
    groups = [group(f"blocks.{number}.up.weight", 10) for number in range(3)]
    given_scores = {one.name: torch.randn(10, generator=GENERATOR) for one in groups}
    limits = {one.name: find_limits(one.units, low=0.2, high=0.8) for one in groups}
    order = order_units(groups, given_scores, limits, ranking="uniform")
    assert order.forced == 2
    for count in range(order.forced, len(order.steps) + 1):
        assert {int(mask.sum()) for mask in order.keep(count).values()} == {10 - count}
        assert order.count_units(count) == 3 * count


class Likes(nn.Sequential):
    """Two blocks of one make, each with eight neurons of its own."""

    def __init__(self) -> None:
        def block() -> nn.Sequential:
            return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 64))

        super().__init__(nn.Flatten(), block(), block(), nn.Linear(64, 10))


def test_uniform_ranking_refuses_rows_that_want_groups_of_one_make_at_two_sizes() -> None:
    rows = [{"match": "1.0", "set": {"sparsity": 0.5}}, {"match": "2.0", "set": {"sparsity": 0.0}}]
    asked = structure(layers=rows, ranking="uniform", target={"metric": "parameters", "value": 1e9})
    said = r"1.0.weight has to lose at least 4 .* 2.0.weight may lose at most 0.*one size"
    with pytest.raises(ContradictoryRows, match=said):
        shrink(Likes(), asked, DATA)
    model = Likes()
    shrink(model, {**asked, "ranking": "local"}, DATA)
    assert [len(model.get_submodule(name).weight) for name in ("1.0", "2.0")] == [4, 8]  # type: ignore[arg-type]


def test_local_ranking_takes_the_same_share_of_every_group() -> None:
    groups = [group("a.weight", 10), group("b.weight", 20)]
    given_scores = {"a.weight": torch.arange(10.0), "b.weight": 1000 + torch.arange(20.0)}
    limits = {one.name: find_limits(one.units, low=0.0, high=1.0) for one in groups}
    kept = order_units(groups, given_scores, limits, ranking="local").keep(15)
    assert [int(mask.sum()) for mask in kept.values()] == [5, 10]


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


def test_sizes_are_kept_at_a_multiple() -> None:
    model = network()
    shrink(model, structure(multiple_of=8), DATA)
    assert parameters(model) <= 40_000
    widths = [len(module.weight) for name, module in model.named_modules() if name.endswith("bn1")]
    assert all(width % 8 == 0 for width in widths)


@pytest.mark.parametrize("rounds", [1, 3])
def test_rows_exclude_and_bound_groups(rounds: int) -> None:
    model = network()
    rows = [
        {"match": "layer3.0.conv1", "set": {"exclude": True}},
        {"match": "layer2.0.conv1", "set": {"sparsity": 0.75}},
    ]
    target = {"metric": "parameters", "value": 50_000}
    shrink(model, structure(layers=rows, rounds=rounds, target=target), DATA)
    assert model.get_submodule("layer3.0.conv1").weight.shape[0] == 64  # type: ignore[union-attr, index]
    assert model.get_submodule("layer2.0.conv1").weight.shape[0] == 8  # type: ignore[union-attr, index]


def test_a_row_bounds_all_groups_whose_channels_one_tensor_makes() -> None:
    # The shortcut pads 8 channels before and 8 after the 16 of the first stage: a group of their own.
    names = [
        group.name
        for group in find_removable(network(), Structure.model_validate({"target": MACS}), DATA[0][0])
    ]
    assert {"layer2.0.conv2.weight", "layer2.0.conv2.weight[0, 24]"} <= set(names)
    model = network()
    rows = [{"match": name, "set": {"sparsity": 0.0}} for name in ("conv1", "layer?.0.conv2")]
    shrink(model, structure(layers=rows, ranking="global"), DATA)
    widths = [model.get_submodule(f"layer{stage}.0.conv2").weight.shape[0] for stage in (1, 2, 3)]  # type: ignore[union-attr, index]
    assert widths == [16, 32, 64]


def test_a_layer_tied_to_an_excluded_one_stays_and_says_so() -> None:
    rows = [{"match": "layer1.0.conv2", "set": {"exclude": True}}]
    groups = find_removable(network(), Structure.model_validate({"target": MACS}), DATA[0][0])
    assert groups[0].is_removable
    asked = Structure.model_validate_json(
        '{"target": {"metric": "macs", "value": 2e5}, "layers": '
        '[{"match": "layer1.0.conv2", "set": {"exclude": true}}]}'
    )
    first = find_removable(network(), asked, DATA[0][0])[0]
    assert first.name == "conv1.weight"
    assert first.why_not == "is cut together with layer1.0.conv2.weight, which is excluded by the recipe"
    both = [*rows, {"match": "conv1", "set": {"sparsity": 0.5}}]
    with pytest.raises(ContradictoryRows, match=r"conv1.weight is to lose 0.5 .* layer1.0.conv2.weight"):
        shrink(network(), structure(layers=both), DATA)


@pytest.mark.parametrize("asked", ["conv1", "layer1.0.conv2"])
def test_a_row_for_any_layer_of_a_sum_bounds_what_the_sum_loses(asked: str) -> None:
    target = {"metric": "parameters", "value": 20_000}
    for setting, widths in (
        ({"sparsity": 0.0}, {16}),
        ({"max_sparsity": 0.25}, {12, 13, 14, 15, 16}),
        ({"min_sparsity": 0.95}, {1}),
    ):
        model = network()
        rows = [{"match": asked, "set": setting}]
        shrink(model, structure(layers=rows, ranking="global", target=target), DATA)
        assert model.get_submodule("conv1").weight.shape[0] in widths, setting  # type: ignore[union-attr, index]


def test_the_strictest_rows_of_layers_that_go_together_win() -> None:
    model = network()
    rows = [
        {"match": "conv1", "set": {"min_sparsity": 0.25, "max_sparsity": 0.75}},
        {"match": "layer1.0.conv2", "set": {"min_sparsity": 0.5, "max_sparsity": 0.5}},
    ]
    shrink(model, structure(layers=rows), DATA)
    assert model.get_submodule("conv1").weight.shape[0] == 8  # type: ignore[union-attr, index]


def test_rows_of_layers_that_go_together_may_not_contradict_each_other() -> None:
    rows = [
        {"match": "conv1", "set": {"max_sparsity": 0.25}},
        {"match": "layer1.0.conv2", "set": {"min_sparsity": 0.5}},
    ]
    said = r"layer1.0.conv2.weight is to lose at least 0.5 .* conv1.weight, which is to lose at most 0.25"
    with pytest.raises(ContradictoryRows, match=said):
        shrink(network(), structure(layers=rows), DATA)


def test_a_layer_that_is_no_group_s_first_cannot_be_asked_for_when_it_is_tied_to_an_excluded_one() -> None:
    rows = [
        {"match": "conv1", "set": {"exclude": True}},
        {"match": "layer1.0.conv2", "set": {"sparsity": 0.5}},
    ]
    with pytest.raises(ContradictoryRows, match=r"layer1.0.conv2.weight is to lose 0.5 .* conv1.weight"):
        shrink(network(), structure(layers=rows), DATA)


def test_a_row_that_asks_for_more_than_the_largest_fraction_is_met() -> None:
    model = network()
    rows = [{"match": "layer3.0.conv1", "set": {"min_sparsity": 0.5}}]
    shrink(model, structure(layers=rows, max_fraction=0.25, target={"metric": "macs", "value": 1e9}), DATA)
    assert model.get_submodule("layer3.0.conv1").weight.shape[0] == 32  # type: ignore[union-attr, index]


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
