"""The service reads layer rows as the pruning library does: the two were written apart."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from app.core.spec import LayerRow
from app.services.layer_rows import find_contradictions, find_row_faults, merge_rows
from worker.pruning.errors import ContradictoryRows, NoMatch
from worker.pruning.layers import find_layers
from worker.pruning.recipe import LayerRow as LibraryRow
from worker.pruning.rows import read_rows


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc10 = nn.Linear(3, 4), nn.Linear(4, 5)
        self.block = nn.ModuleDict({"conv": nn.Conv2d(1, 2, 3)})
        self.tied = nn.Linear(4, 5)
        self.tied.weight = self.fc10.weight


LIBRARY_LAYERS = find_layers(Net())
LAYERS = [
    {
        "name": layer.name,
        "aliases": list(layer.aliases),
        "parameters": layer.numel,
        "prunable": layer.is_prunable,
        "why_not": layer.why_not,
        "shape": list(layer.shape),
    }
    for layer in LIBRARY_LAYERS
]
_FRACTION = st.floats(0, 1)
_SETTINGS = st.one_of(
    st.fixed_dictionaries({"exclude": st.booleans()}),
    st.fixed_dictionaries({"sparsity": _FRACTION}),
    st.fixed_dictionaries({"min_sparsity": st.floats(0, 0.5), "max_sparsity": st.floats(0.5, 1)}),
    st.fixed_dictionaries({"min_sparsity": _FRACTION}),
    st.fixed_dictionaries({"max_sparsity": _FRACTION}),
)
_GLOBS = st.sampled_from(
    [
        "*",
        "fc1",
        "fc1*",
        "fc1.weight",
        "*.bias",
        "block.*",
        "fc[!1]*",
        "fc?",
        "tied",
        "*ed.weight",
        "nothing",
        "FC1",
    ]
)
_ROWS = st.lists(st.fixed_dictionaries({"match": _GLOBS, "set": _SETTINGS}), max_size=4)


@given(_ROWS)
def test_rows_mean_here_what_they_mean_to_the_library(rows):
    ours = [LayerRow.model_validate(row) for row in rows]
    try:
        wishes = read_rows([LibraryRow.model_validate(row) for row in rows], LIBRARY_LAYERS)
    except NoMatch:
        assert find_row_faults(ours, LAYERS)
        return
    except ContradictoryRows:
        assert find_row_faults(ours, LAYERS) or find_contradictions(ours, LAYERS)
        return
    assert find_row_faults(ours, LAYERS) == find_contradictions(ours, LAYERS) == []
    for layer in (layer for layer in LAYERS if layer["prunable"]):
        theirs, wish = wishes[layer["name"]], merge_rows(ours, layer)
        assert (wish.is_excluded, wish.fixed_sparsity is not None) == (theirs.is_excluded, theirs.is_fixed)
        low, high = (wish.fixed_sparsity,) * 2 if theirs.is_fixed else (wish.min_sparsity, wish.max_sparsity)
        assert math.isclose(low, theirs.min_sparsity)
        assert math.isclose(high, theirs.max_sparsity)


@pytest.mark.parametrize(
    ("glob", "closest"), [("fc11", "fc10"), ("fc1.weigth", "fc1.weight"), ("blok.conv", "block.conv")]
)
def test_a_glob_that_matches_nothing_names_the_closest_layers(glob, closest):
    row = LayerRow.model_validate({"match": glob, "set": {"exclude": True}})
    [fault] = find_row_faults([row], LAYERS)
    assert fault.pointer == "/recipe/layers/0/match"
    assert closest in fault.detail


def test_the_closest_names_are_told_once_each():
    row = LayerRow.model_validate({"match": "blok", "set": {"exclude": True}})
    [fault] = find_row_faults([row], LAYERS)
    told = fault.detail.partition("names are: ")[2].split(", ")
    assert told[0] == "block.conv"
    assert len(set(told)) == len(told) == 3


def test_only_the_first_of_many_wrong_globs_are_told_with_close_names_and_the_rest_without():
    globs = ["fc1", *(f"nothing{i}" for i in range(200))]
    rows = [LayerRow.model_validate({"match": glob, "set": {"exclude": True}}) for glob in globs]
    faults = find_row_faults(rows, LAYERS)
    assert [fault.pointer for fault in faults] == [f"/recipe/layers/{i}/match" for i in range(1, 101)]
    assert ["closest names" in fault.detail for fault in faults] == [True] * 5 + [False] * 95
    assert faults[5].detail == "'nothing5' matches no layer"


def test_rows_that_contradict_each_other_are_told_once_with_a_layer():
    rows = [
        LayerRow.model_validate({"match": "*", "set": {"min_sparsity": 0.6}}),
        LayerRow.model_validate({"match": "fc*", "set": {"max_sparsity": 0.4}}),
        LayerRow.model_validate({"match": "*", "set": {"exclude": True}}),
    ]
    first, second = find_contradictions(rows, LAYERS)
    assert (first.pointer, first.code) == ("/recipe/layers/1", "contradictory_rows")
    assert first.detail == "the rows up to this one ask at least 0.6 and at most 0.4 of fc1.weight"
    assert second.pointer == "/recipe/layers/2"
    assert second.detail == "two rows match '*': one excludes it, the other prunes it"
