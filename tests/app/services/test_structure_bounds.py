"""The service bounds groups as the pruning library does: the two were written apart."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.spec import Structure
from app.services.structure_bounds import find_bounds, find_group_faults
from tests.app.services.inspections import inspect
from worker.pruning.errors import ContradictoryRows
from worker.pruning.removal.bounds import limit_groups, mark_groups
from worker.pruning.removal.groups import find_groups
from worker.pruning.removal.recipe import read_structure

NETWORKS = {name: inspect(name)[:2] for name in ("resnet8x8", "vit-small-images")}
GROUPS = {name: find_groups(network, torch.randn(2, 1, 8, 8)) for name, (network, _) in NETWORKS.items()}
GLOBS = {
    "resnet8x8": ["*", "conv1", "layer1.*", "layer?.0.conv2", "layer2.0.conv1", "layer3.0.*"],
    "vit-small-images": ["*", "blocks.*", "blocks.0.*", "blocks.[12].attention.*", "*.weight"],
}
_FRACTION = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.95, 1.0])
_SETTINGS = st.one_of(
    st.fixed_dictionaries({"exclude": st.booleans()}),
    st.fixed_dictionaries({"sparsity": _FRACTION}),
    st.fixed_dictionaries({"min_sparsity": st.sampled_from([0.0, 0.3, 0.5])}),
    st.fixed_dictionaries({"max_sparsity": st.sampled_from([0.5, 0.7, 0.95])}),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.data())
def test_bounds_are_those_of_the_library_and_contradictions_too(name, data):
    rows = st.fixed_dictionaries({"match": st.sampled_from(GLOBS[name]), "set": _SETTINGS})
    asked = {
        "target": {"metric": "parameters", "value": 1},
        "layers": data.draw(st.lists(rows, max_size=3, unique_by=lambda row: row["match"])),
        "multiple_of": data.draw(st.sampled_from([1, 2, 3, 8])),
        "max_fraction": data.draw(st.sampled_from([0.5, 0.9])),
    }
    ours, theirs = Structure.model_validate_json(json.dumps(asked)), read_structure(asked)
    network, inspection = NETWORKS[name]
    try:
        marked = mark_groups(network, GROUPS[name], theirs)
        free = [group for group in marked if group.is_removable]
        limits = limit_groups(network, free, theirs, {})
    except ContradictoryRows:
        assert find_group_faults(ours, inspection)
        return
    assert find_group_faults(ours, inspection) == []
    found = {one.group["name"]: (one.low, one.high, one.multiple) for one in find_bounds(ours, inspection)}
    assert found == {group: (one.low, one.high, one.multiple) for group, one in limits.items()}


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        (
            {"conv1": {"exclude": True}, "layer1.0.conv2": {"sparsity": 0.5}},
            {},
            "layer1.0.conv2.weight is to lose 0.5 of its channels, but is cut together with conv1.weight, "
            "which is excluded",
        ),
        (
            {"conv1": {"max_sparsity": 0.25}, "layer1.0.conv2": {"min_sparsity": 0.5}},
            {},
            "layer1.0.conv2.weight is to lose at least 0.5 of its channels, but is cut together with "
            "conv1.weight, which is to lose at most 0.25",
        ),
        ({"layer3.0.conv1": {"sparsity": 0.5}}, {"multiple_of": 3}, "is no multiple of 3 outputs"),
    ],
)
def test_rows_that_contradict_each_other_are_told_apart(rows, more, said):
    layers = [{"match": match, "set": setting} for match, setting in rows.items()]
    asked = {"target": {"metric": "macs", "value": 1}, "layers": layers, **more}
    structure = Structure.model_validate_json(json.dumps(asked))
    [fault] = find_group_faults(structure, NETWORKS["resnet8x8"][1])
    assert (fault.pointer, fault.code) == ("/structure/layers", "contradictory_rows")
    assert said in fault.detail
