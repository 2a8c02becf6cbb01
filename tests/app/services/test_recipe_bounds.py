"""What the service refuses of a recipe is what the library would refuse: the two were written apart."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.core.spec import Recipe
from app.services.layer_rows import find_contradictions, find_row_faults
from app.services.recipe_bounds import (
    find_recipe_faults,
    find_unsuitable_pattern,
    find_unsuitable_schedule,
)
from tests.app.services.test_layer_rows import LAYERS, Net
from worker.pruning import Pruner, prune
from worker.pruning.errors import NeedsTraining, PruningError, UnsuitableScores
from worker.pruning.registry import entries

_FRACTION = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]) | st.floats(0, 1)
_SETTINGS = st.one_of(
    st.fixed_dictionaries({"exclude": st.booleans()}),
    st.fixed_dictionaries({"sparsity": _FRACTION}),
    st.fixed_dictionaries({"min_sparsity": _FRACTION}),
    st.fixed_dictionaries({"max_sparsity": _FRACTION}),
)
_GLOBS = st.sampled_from(["*", "fc1", "fc*", "*.weight", "*.bias", "block.*", "fc[!1]*"])
_ROWS = st.lists(st.fixed_dictionaries({"match": _GLOBS, "set": _SETTINGS}), max_size=4)
_NET = Net()


def read(recipe) -> Recipe:
    return Recipe.model_validate_json(json.dumps(recipe))


def find_all(recipe: Recipe):
    rows = recipe.layers
    return (
        find_row_faults(rows, LAYERS)
        or find_contradictions(rows, LAYERS)
        or find_recipe_faults(recipe, LAYERS)
    )


@given(
    rows=_ROWS,
    value=_FRACTION | st.floats(0.99, 1),
    allocation=st.sampled_from(["global", "uniform", "erk"]),
    may_empty=st.booleans(),
)
def test_what_is_refused_is_what_the_library_refuses(rows, value, allocation, may_empty):
    recipe = {"target": {"metric": "sparsity", "value": value}, "layers": rows}
    recipe["allocation"] = {"name": allocation, "params": {"may_empty_layers": may_empty}}
    faults = find_all(read(recipe))
    if faults:
        with pytest.raises(PruningError):
            prune(copy.deepcopy(_NET), recipe)
    else:
        prune(copy.deepcopy(_NET), recipe)


@pytest.mark.parametrize("criterion", entries("criterion"))
@pytest.mark.parametrize("pattern", entries("pattern"))
def test_a_criterion_is_refused_with_the_patterns_with_which_the_library_refuses_it(criterion, pattern):
    recipe = {
        "criterion": {"name": criterion, "params": {}},
        "pattern": {"name": pattern, "params": {}},
        "target": {"metric": "sparsity", "value": 0.5},
    }
    refusal = None
    try:
        Pruner(copy.deepcopy(_NET), recipe)
    except UnsuitableScores as error:
        refusal = str(error)
    except PruningError:  # nothing of the network fits the pattern
        pass
    faults = find_unsuitable_pattern(read(recipe))
    assert [fault.detail for fault in faults] == ([] if refusal is None else [refusal])
    assert all(fault.pointer == "/recipe/pattern/name" for fault in faults)


@pytest.mark.parametrize("criterion", ["magnitude", "movement", "movement_soft"])
@pytest.mark.parametrize("params", [{}, {"initial_fraction": 0.2}, {"start_fraction": 0.2}])
@pytest.mark.parametrize("schedule", sorted(entries("schedule")))
def test_a_schedule_is_refused_where_the_library_lacks_learned_scores(criterion, schedule, params):
    known = entries("schedule")[schedule].cls.model_fields
    recipe = {
        "criterion": {"name": criterion, "params": {}},
        "schedule": {"name": schedule, "params": {k: v for k, v in params.items() if k in known}},
        "target": {"metric": "sparsity", "value": 0.5},
    }
    net = copy.deepcopy(_NET)
    pruner = Pruner(net, recipe, steps=20)
    try:
        pruner.attach(torch.optim.SGD(net.parameters(), lr=0.1))
        is_refused = False
    except NeedsTraining:
        is_refused = True
    faults = find_unsuitable_schedule(read(recipe))
    assert [fault.pointer for fault in faults] == ["/recipe/schedule"] * is_refused


# Every layer may be rounded by half a weight: of the smallest, with 12 weights, that is 0.042.
@pytest.mark.parametrize(("value", "is_refused"), [(0.5, False), (0.52, False), (0.6, True), (0.0, True)])
def test_a_pattern_that_fixes_the_sparsity_has_no_other(value, is_refused):
    recipe = {
        "pattern": {"name": "n_m", "params": {"keep": 2, "of": 4}},
        "target": {"metric": "sparsity", "value": value},
    }
    faults = find_recipe_faults(read(recipe), LAYERS)
    assert [fault.pointer for fault in faults] == ["/recipe/target/value"] * is_refused
    assert all("keeping 2 of every 4 weights is a sparsity of 0.5" in fault.detail for fault in faults)


def test_what_cannot_be_is_said_with_what_can():
    rows = [{"match": "fc*", "set": {"min_sparsity": 0.5}}, {"match": "block.*", "set": {"sparsity": 0.5}}]
    recipe = {"target": {"metric": "sparsity", "value": 0.25}, "layers": rows}
    [fault] = find_recipe_faults(read(recipe), LAYERS)
    assert (fault.pointer, fault.code) == ("/recipe/target/value", "sparsity_unreachable")
    # 12 + 20 + 18 weights: at least 6, 10, 9 go, at most 11, 19 and 9, as a layer keeps its last weight.
    assert fault.detail == (
        "the rows let 0.5 to 0.78 of the 50 weights that can be pruned go, found a target of 0.25"
    )
