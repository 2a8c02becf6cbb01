"""What holds for every criterion, pattern, allocation and schedule that is registered."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.worker.pruning.loop import learn_scores, learns_scores, prune_any
from tests.worker.pruning.networks import Batches, ConvNet, Transformer, batches, fill
from worker.pruning import MaskSet, Pruner, prune
from worker.pruning.errors import UnreachableTarget
from worker.pruning.grouping import reduce_scores
from worker.pruning.layers import find_layers
from worker.pruning.plan import Plan, make_plan
from worker.pruning.protocols import LearnsScores, Unit
from worker.pruning.recipe import read_recipe
from worker.pruning.registry import entries
from worker.pruning.statistics import Calibration, gather

Json = dict[str, Any]

# Layers without a BatchNorm behind them have no such scale.
_ROWS = {"bn_scale": [{"match": "fc*", "set": {"exclude": True}}]}
_FIXED = {"n_m": 0.5}
PATTERNS = list(entries("pattern"))
ALLOCATIONS = list(entries("allocation"))
CRITERIA = list(entries("criterion"))


def recipe(criterion: str = "magnitude", pattern: str = "unstructured", allocation: str = "global") -> Json:
    rows = [] if pattern == "head" else _ROWS.get(criterion, [])
    return {
        "criterion": {"name": criterion},
        "pattern": {"name": pattern},
        "allocation": {"name": allocation},
        "target": {"value": _FIXED.get(pattern, 0.5)},
        "layers": rows,
    }


def needs_data(one: Json) -> bool:
    return one["allocation"]["name"] in ("owl", "sensitivity")


# Everything registered with the defaults of the other axes, and criteria under a pattern that protects.
RECIPES = [
    *(recipe(criterion=name) for name in CRITERIA),
    *(recipe(criterion=name, pattern="n_m") for name in ("random", "wanda", "sparsegpt", "grasp")),
    *(recipe(pattern=name) for name in PATTERNS if name != "unstructured"),
    *(recipe(allocation=name) for name in ALLOCATIONS if name != "global"),
]
# The laws about counts and order also where patterns and allocations meet.
CROSSED = [
    *RECIPES,
    *(
        recipe(pattern=one, allocation=other)
        for one in PATTERNS
        for other in ALLOCATIONS
        if other != "global"
    ),
]
# What needs no data has no reason to differ between dtypes; what does is scored in float32 anyway.
PLAIN = [
    one for one in CROSSED if one["criterion"]["name"] in ("magnitude", "random") and not needs_data(one)
]


def name_of(one: Json) -> str:
    return "-".join(one[axis]["name"] for axis in ("criterion", "pattern", "allocation"))


every_crossing = pytest.mark.parametrize("given_recipe", CROSSED, ids=name_of)
every_recipe = pytest.mark.parametrize("given_recipe", RECIPES, ids=name_of)
# What learns its scores lets weights come back: that is its point.
every_monotone_recipe = pytest.mark.parametrize(
    "given_recipe", [one for one in RECIPES if not learns_scores(one)], ids=name_of
)
every_plain_recipe = pytest.mark.parametrize("given_recipe", PLAIN, ids=name_of)
few = settings(max_examples=3, deadline=None)


def network(given_recipe: Json, seed: int = 0, *, tied: bool = False, backwards: bool = False) -> nn.Module:
    kind = Transformer if given_recipe["pattern"]["name"] == "head" else ConvNet
    model = kind(backwards=backwards)
    fill(model, seed, tied=tied)
    return model.eval()


def run(model: nn.Module, given_recipe: Json, value: float | None = None, **changes: Any) -> MaskSet:
    target = given_recipe["target"] if value is None else {"value": value}
    return prune_any(model, {**given_recipe, "target": target}, batches(model), **changes)


def plan_of(model: nn.Module, given_recipe: Json) -> Plan:
    return make_plan(model, read_recipe(given_recipe))


def group_scores(model: nn.Module, plan: Plan, unit: Unit, data: Batches, seed: int = 0) -> torch.Tensor:
    names = [layer.name for layer in unit.layers]
    statistics = gather(
        model,
        [layer.name for layer in plan.pruned_layers],
        criterion=plan.criterion,
        calibration=Calibration(data, seed=seed),
    )
    if isinstance(plan.criterion, LearnsScores):
        learned = learn_scores(model, list(statistics), plan.criterion, data)
        statistics = {name: replace(one, learned_scores=learned[name]) for name, one in statistics.items()}
    weights = dict(model.named_parameters())
    scores = {name: plan.criterion.score(weights[name].detach(), statistics[name]) for name in names}
    return reduce_scores(plan.pattern, unit, scores)


def kept_groups(plan: Plan, unit: Unit, masks: MaskSet) -> torch.Tensor:
    """Return which groups are kept, and check on the way that no group is half pruned."""
    rows = torch.cat([plan.pattern.lay_out(unit, layer, masks[layer.name]) for layer in unit.layers], dim=1)
    assert torch.equal(rows.all(dim=1), rows.any(dim=1))
    return rows.any(dim=1)


@every_crossing
@few
@given(fraction=st.floats(0.0, 1.0), seed=st.integers(0, 99), tied=st.booleans())
def test_the_number_of_pruned_weights_is_that_asked_for(
    given_recipe: Json, fraction: float, seed: int, tied: bool
) -> None:
    model = network(given_recipe, seed, tied=tied)
    units = plan_of(model, given_recipe).units
    total = sum(unit.numel for unit in units)
    group = max(unit.group_size for unit in units)
    # Up to what leaves every layer its last group.
    value = _FIXED.get(given_recipe["pattern"]["name"], fraction * (0.95 if group == 1 else 0.7))
    masks = run(model, given_recipe, value)
    assert masks.numel == total
    pruned = masks.numel - masks.kept
    # Rounded to a weight, then to a group.
    assert pruned == round(value * total) if group == 1 else abs(pruned - round(value * total)) <= group / 2


@every_plain_recipe
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@few
@given(value=st.floats(0.0, 1.0))
def test_half_precision_which_is_full_of_ties_is_pruned_to_the_same_count(
    given_recipe: Json, dtype: torch.dtype, value: float
) -> None:
    value = _FIXED.get(given_recipe["pattern"]["name"], min(value, 0.7))
    full, half = network(given_recipe), network(given_recipe).to(dtype)
    units = plan_of(full, given_recipe).units
    one, other = (
        prune(full, {**given_recipe, "target": {"value": value}}),
        prune(half, {**given_recipe, "target": {"value": value}}),
    )
    group = max(unit.group_size for unit in units)
    assert abs(one.kept - other.kept) <= (0 if group == 1 else 2 * group)
    assert all(
        not parameter[~other[name]].any() for name, parameter in half.named_parameters() if name in other
    )


@every_crossing
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_and_everything_are_exact(given_recipe: Json, value: float) -> None:
    if given_recipe["pattern"]["name"] in _FIXED:
        with pytest.raises(UnreachableTarget, match="nearest reachable is 0\\.5"):
            run(network(given_recipe), given_recipe, value)
        return
    assert run(network(given_recipe), given_recipe, value).sparsity == value


@every_crossing
@few
@given(seed=st.integers(0, 99), tied=st.booleans())
def test_no_kept_group_scores_below_a_pruned_one_of_its_unit(
    given_recipe: Json, seed: int, tied: bool
) -> None:
    model = network(given_recipe, seed, tied=tied)
    dense = copy.deepcopy(model)
    plan = plan_of(model, given_recipe)
    masks = run(model, given_recipe)
    for unit in plan.units:
        scores, kept = group_scores(dense, plan, unit, batches(model)), kept_groups(plan, unit, masks)
        if given_recipe["pattern"]["name"] == "n_m":
            along = unit.layers[0]
            scores, kept = (x.reshape(along.shape).movedim(1, -1).reshape(-1, 4) for x in (scores, kept))
            assert kept.sum(dim=1).eq(2).all()
        else:
            scores, kept = scores[None], kept[None]
        lowest_kept = scores.masked_fill(~kept, torch.inf).amin(dim=1)
        highest_pruned = scores.masked_fill(kept, -torch.inf).amax(dim=1)
        assert bool((lowest_kept >= highest_pruned).all())


@every_crossing
@few
@given(values=st.tuples(st.floats(0.0, 0.7), st.floats(0.0, 0.7)).map(sorted), tied=st.booleans())
def test_a_sparser_mask_keeps_nothing_that_a_denser_one_prunes(
    given_recipe: Json, values: list[float], tied: bool
) -> None:
    values = [_FIXED.get(given_recipe["pattern"]["name"], value) for value in values]
    denser, sparser = (run(network(given_recipe, tied=tied), given_recipe, value) for value in values)
    assert (sparser - denser).kept == 0


@every_monotone_recipe
@few
@given(seed=st.integers(0, 99))
def test_what_is_pruned_stays_pruned_while_the_model_trains(given_recipe: Json, seed: int) -> None:
    model = network(given_recipe)
    pruner = Pruner(model, {**given_recipe, "schedule": {"name": "linear"}}, batches(model))
    before = pruner.update(0.3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    pruner.step()
    for progress in (0.7, 0.5, 1.0):
        after = pruner.update(progress)
        assert (after - before).kept == 0
        before = after
    for name, parameter in model.named_parameters():
        assert name not in after or not parameter[~after[name]].any()


@every_recipe
def test_what_is_not_masked_is_untouched(given_recipe: Json) -> None:
    model = network(given_recipe)
    excluded = "first.self.query" if given_recipe["pattern"]["name"] == "head" else "conv1"
    rows = [*given_recipe["layers"], {"match": excluded, "set": {"exclude": True}}]
    if given_recipe["pattern"]["name"] == "neuron":
        rows[-1]["match"] = excluded = "fc1"
    before = copy.deepcopy(model.state_dict())
    masks = run(model, {**given_recipe, "layers": rows})
    assert not any(name.startswith(excluded) for name in masks)
    for name, tensor in model.state_dict().items():
        assert name in masks or torch.equal(tensor, before[name])


@every_recipe
def test_saved_and_loaded_masks_prune_a_copy_alike(
    given_recipe: Json, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = network(given_recipe)
    dense = copy.deepcopy(model)
    masks = run(model, given_recipe)
    path = tmp_path_factory.mktemp("masks") / "masks.safetensors"
    masks.save(path)
    loaded = MaskSet.load(path)
    loaded.apply(dense)
    assert loaded == masks
    weights = dict(model.named_parameters())
    for name, parameter in dense.named_parameters():
        assert name not in masks or torch.equal(parameter == 0, (weights[name] == 0) | ~masks[name])


@every_recipe
def test_the_order_in_which_layers_are_registered_is_irrelevant(given_recipe: Json) -> None:
    one, other = (run(network(given_recipe, tied=True, backwards=b), given_recipe) for b in (False, True))
    assert one == other


@every_recipe
def test_the_same_seed_gives_the_same_mask(given_recipe: Json) -> None:
    one, other = (run(network(given_recipe), given_recipe, seed=7) for _ in range(2))
    assert one == other


def test_another_seed_gives_another_random_mask() -> None:
    one, other = (run(network(recipe("random")), recipe("random"), seed=seed) for seed in (1, 2))
    assert one != other


@every_recipe
def test_a_layer_keeps_its_last_group(given_recipe: Json) -> None:
    model = network(given_recipe)
    plan = plan_of(model, given_recipe)
    masks = run(model, given_recipe)
    assert plan.pattern.may_empty_layers or all(
        bool(kept_groups(plan, unit, masks).any()) for unit in plan.units
    )


@every_recipe
def test_every_parameter_is_either_masked_or_refused_with_a_reason(given_recipe: Json) -> None:
    model = network(given_recipe)
    pruner = Pruner(model, given_recipe, batches(model))
    assert {layer.name for layer in pruner.layers} == {layer.name for layer in find_layers(model)}
    assert {layer.name for layer in pruner.layers if layer.is_prunable} == set(pruner.masks)
    assert all(layer.why_not for layer in pruner.layers if layer.name not in pruner.masks)


@pytest.mark.parametrize("name", list(entries("schedule")))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_schedule_ends_where_one_shot_does_for_every_pattern(name: str, pattern: str) -> None:
    gradual = {**recipe(pattern=pattern), "schedule": {"name": name}}
    pruner = Pruner(network(gradual), gradual)
    for progress in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        masks = pruner.update(progress)
    assert masks.sparsity == run(network(gradual), recipe(pattern=pattern)).sparsity
