"""Masks as a mapping: combining, applying, saving."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from worker.pruning import MaskSet, prune
from worker.pruning.errors import MaskMismatch, NoMatch
from worker.pruning.masks import pack, unpack, zero_pruned

SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)
BOOLS = hnp.arrays(np.bool_, SHAPES).map(lambda array: torch.from_numpy(array.copy()))


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[MaskSet, MaskSet]:
    shapes = draw(st.dictionaries(st.sampled_from(["a", "b.weight", "c"]), SHAPES))
    one, two = (
        MaskSet(
            {
                name: torch.from_numpy(draw(hnp.arrays(np.bool_, shape)).copy())
                for name, shape in shapes.items()
            }
        )
        for _ in range(2)
    )
    return one, two


@given(mask_pairs())
def test_sets_of_masks_obey_the_algebra_of_sets(pair: tuple[MaskSet, MaskSet]) -> None:
    one, two = pair
    assert one & two == two & one
    assert one | two == ~(~one & ~two)
    assert one ^ two == (one | two) - (one & two)
    assert one - two == one & ~two
    assert (one & two).kept + (one ^ two).kept == (one | two).kept
    assert one.kept + (~one).kept == one.numel


@given(mask_pairs())
def test_overlap_is_intersection_over_union(pair: tuple[MaskSet, MaskSet]) -> None:
    one, two = pair
    union = (one | two).kept
    assert one.overlap(two) == ((one & two).kept / union if union else 1.0)
    assert one.overlap(one) == 1.0


@given(pair=mask_pairs())
def test_saving_and_loading_changes_nothing_and_writes_the_same_bytes(
    pair: tuple[MaskSet, MaskSet], tmp_path_factory: pytest.TempPathFactory
) -> None:
    masks, _ = pair
    path = tmp_path_factory.mktemp("masks") / "masks.safetensors"
    masks.save(path)
    first = path.read_bytes()
    loaded = MaskSet.load(path)
    loaded.save(path)
    assert loaded == masks
    assert path.read_bytes() == first


@given(BOOLS)
def test_packing_is_that_of_numpy_with_the_first_weight_in_the_lowest_bit(mask: Tensor) -> None:
    assert pack(mask) == np.packbits(mask.numpy(), bitorder="little").tobytes()
    assert torch.equal(unpack(pack(mask), tuple(mask.shape)), mask)


def test_nine_weights_take_two_bytes() -> None:
    mask = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 1]], dtype=torch.bool)
    assert pack(mask) == bytes([0b1000_0001, 0b1])


def test_packed_bytes_of_another_length_are_refused() -> None:
    with pytest.raises(MaskMismatch, match=r"shape \(3, 3\) takes 2 bytes, found 1"):
        unpack(b"\x00", (3, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@given(mask=BOOLS)
def test_applying_leaves_kept_weights_alone_and_makes_the_others_zero(
    dtype: torch.dtype, mask: Tensor
) -> None:
    weight = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    values = weight.clone()
    zero_pruned(values, mask)
    assert torch.equal(values[mask], weight[mask])
    assert not values[~mask].any()
    assert not torch.signbit(values[~mask]).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_becomes_zero_too(bad: float) -> None:
    values = torch.tensor([bad, bad])
    zero_pruned(values, torch.tensor([False, True]))
    assert values[0] == 0.0
    assert not torch.isfinite(values[1])


def test_a_transposed_weight_is_zeroed_in_place() -> None:
    storage = torch.ones(2, 3)
    zero_pruned(storage.t(), torch.tensor([[False, True], [True, True], [True, False]]))
    assert storage.tolist() == [[0, 1, 1], [1, 1, 0]]


def test_autograd_notices_that_a_weight_was_zeroed() -> None:
    weight = torch.ones(3, requires_grad=True)
    square = (weight * weight).sum()
    with torch.no_grad():
        zero_pruned(weight, torch.tensor([True, False, True]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


class Wrapper(nn.Module):
    """Holds a model under one name: `module` as DistributedDataParallel, `_orig_mod` as torch.compile."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        self.add_module(name, model)


@pytest.mark.parametrize("names", [(), ("module",), ("_orig_mod",), ("module", "_orig_mod")])
def test_applying_zeroes_the_weights_of_a_model_through_its_wrappers(names: tuple[str, ...]) -> None:
    model = wrapped = nn.Sequential(nn.Linear(2, 2))
    nn.init.ones_(model[0].weight)
    for name in reversed(names):
        wrapped = Wrapper(name, wrapped)
    MaskSet({"0.weight": torch.eye(2, dtype=torch.bool)}).apply(wrapped)
    assert model[0].weight.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_masks_of_a_wrapped_model_apply_to_the_model_inside(name: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    masks = prune(Wrapper(name, model), {"target": {"value": 0.5}})
    twin = nn.Sequential(nn.Linear(4, 4))
    masks.apply(twin)
    assert torch.equal(twin[0].weight == 0, model[0].weight == 0)


def test_applying_to_a_copy_leaves_the_original_alone() -> None:
    model = nn.Linear(2, 2)
    twin = copy.deepcopy(model)
    MaskSet({"weight": torch.zeros(2, 2, dtype=torch.bool)}).apply(twin)
    assert not twin.weight.any()
    assert model.weight.all()


def test_a_submodule_that_is_called_module_keeps_its_name() -> None:
    model = nn.ModuleDict({"module": nn.Linear(1, 1, bias=False), "other": nn.Linear(1, 1, bias=False)})
    MaskSet({"module.weight": torch.zeros(1, 1, dtype=torch.bool)}).apply(model)
    assert model["module"].weight.item() == 0.0
    assert model["other"].weight.item() != 0.0


def test_a_mask_for_another_model_names_the_closest_parameters_and_changes_nothing() -> None:
    model = nn.ModuleDict({"fc1": nn.Linear(2, 2), "fc2": nn.Linear(2, 2)})
    masks = MaskSet(
        {"fc1.weight": torch.zeros(2, 2, dtype=torch.bool), "fc3.weight": torch.ones(2, 2).bool()}
    )
    with pytest.raises(NoMatch, match=r"'fc3.weight' matches no parameter of the model; .*fc[12]\.weight"):
        masks.apply(model)
    assert model["fc1"].weight.count_nonzero() == 4


def test_a_mask_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(MaskMismatch, match=r"weight has shape \(2, 3\), the tensor has \(3, 2\)"):
        MaskSet({"weight": torch.ones(2, 3, dtype=torch.bool)}).apply(nn.Linear(2, 3))


def test_a_mask_that_is_not_bool_is_refused() -> None:
    with pytest.raises(MaskMismatch, match=r"mask of w must be bool, found torch\.float32"):
        MaskSet({"w": torch.ones(2)})


def test_masks_of_other_names_or_shapes_do_not_combine() -> None:
    one = MaskSet({"a": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(MaskMismatch, match="differ in names: b"):
        one & MaskSet({"a": one["a"], "b": one["a"]})
    with pytest.raises(MaskMismatch, match=r"shape \(2,\), the tensor has \(3,\)"):
        one | MaskSet({"a": torch.ones(3, dtype=torch.bool)})


def test_kept_indices_or_a_kept_mask_replace_a_mask() -> None:
    masks = MaskSet({"w": torch.ones(2, 2, dtype=torch.bool)})
    assert masks.updated("w", torch.tensor([0, 3]))["w"].tolist() == [[True, False], [False, True]]
    assert masks.updated("w", torch.zeros(2, 2, dtype=torch.bool)).sparsity == 1.0
    with pytest.raises(NoMatch):
        masks.updated("v", torch.tensor([0]))
    with pytest.raises(MaskMismatch):
        masks.updated("w", torch.ones(3, dtype=torch.bool))


def test_nothing_covered_is_not_sparse() -> None:
    assert MaskSet({}).sparsity == 0.0
    assert MaskSet({"w": torch.empty(0, dtype=torch.bool)}).sparsity == 0.0


@pytest.mark.parametrize("content", [b"", b"no masks here", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_file_without_masks_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    path.write_bytes(content)
    with pytest.raises(MaskMismatch, match="holds no masks"):
        MaskSet.load(path)
