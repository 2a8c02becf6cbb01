"""A pruner's state on disk."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.worker.pruning.networks import ConvNet, fill
from worker.pruning import Pruner
from worker.pruning.callbacks.state import InvalidState, load_state, save_state

TENSORS = [
    torch.arange(6, dtype=torch.int64).reshape(2, 3),
    torch.tensor([[True, False]]),
    torch.tensor(1.5, dtype=torch.bfloat16),
    torch.empty(0, 4),
    torch.arange(6.0).reshape(2, 3).t(),
]
KEYS = st.sampled_from(["a", "b", "a/b", "~", "~1", "", "c.weight"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    LEAVES | st.text() | st.sampled_from(TENSORS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(st.integers(), inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


def same(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and list(one) == list(other)
            and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(state=st.dictionaries(KEYS, VALUES, max_size=4))
def test_saving_and_loading_changes_nothing(tmp_path_factory: pytest.TempPathFactory, state: dict) -> None:
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    save_state(path, state)
    assert same(load_state(path), state)


def test_the_same_state_gives_the_same_bytes_and_leaves_no_other_file(tmp_path: Path) -> None:
    state = {"step": 3, "masks": {"b": TENSORS[0], "a": TENSORS[1]}}
    save_state(tmp_path / "one", state)
    save_state(tmp_path / "two", state)
    save_state(tmp_path / "two", state)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_tensors_that_share_memory_are_saved_each(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    save_state(tmp_path / "state", {"one": shared, "other": shared[1:]})
    assert load_state(tmp_path / "state")["other"].tolist() == [1, 2, 3]


def test_a_pruners_state_comes_back_and_restores_its_masks(tmp_path: Path) -> None:
    model = ConvNet()
    fill(model, 0, tied=False)
    first = Pruner(model, {"target": {"value": 0.7}})
    first.update()
    save_state(tmp_path / "state", first.state_dict())
    second = Pruner(ConvNet(), {"target": {"value": 0.7}})
    second.load_state_dict(load_state(tmp_path / "state"))
    assert second.masks == first.masks


@pytest.mark.parametrize(
    "state",
    [
        {"a": object()},
        {1: 2, "a": 3},
        {"a": {"$tensor": "/a"}},
        {"a": float("nan")},
        {"a": {3}},
        {"$items": []},
    ],
    ids=["object", "mixed keys", "the key of tensors", "nan", "set", "the key of items"],
)
def test_what_is_neither_tensor_nor_json_is_refused_and_nothing_is_written(
    tmp_path: Path, state: dict
) -> None:
    with pytest.raises(InvalidState):
        save_state(tmp_path / "state", state)
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no state")
    with pytest.raises(InvalidState, match="holds no state of a pruner"):
        load_state(tmp_path / "text")
    Pruner(ConvNet(), {"target": {"value": 0.7}}).masks.save(tmp_path / "masks")
    with pytest.raises(InvalidState, match="holds no state of a pruner"):
        load_state(tmp_path / "masks")
