"""Mistakes that pruning libraries are known for, each with the input that shows it."""

import copy
import itertools
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.worker.pruning.networks import ConvNet, batches, fill
from worker.pruning import MaskSet, Pruner, prune
from worker.pruning.errors import MaskMismatch, NothingToPrune
from worker.pruning.registry import InvalidParams


def at(sparsity: float, **more: object) -> dict[str, object]:
    return {"target": {"value": sparsity}, **more}


def filled(values: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(*reversed(values.shape), bias=False).to(values.dtype)
    layer.weight.data = values
    return layer


def pruned(masks: MaskSet) -> int:
    return masks.numel - masks.kept


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk", "lamp"])
def test_a_constant_tensor_loses_the_tenth_that_was_asked_for_and_not_everything(allocation: str) -> None:
    masks = prune(filled(torch.ones(10, 10)), at(0.1, allocation={"name": allocation}))
    assert pruned(masks) == 10


def test_two_fifths_of_zeros_do_not_make_a_tenth_two_fifths() -> None:
    weight = torch.where(torch.arange(100) % 5 < 2, 0.0, torch.arange(100.0)).reshape(10, 10)
    masks = prune(filled(weight), at(0.1))
    assert pruned(masks) == 10
    assert not weight[~masks["weight"]].any()


def test_bfloat16_with_its_few_magnitudes_is_halved_exactly() -> None:
    torch.manual_seed(0)
    weight = torch.randn(250, 400).bfloat16()
    assert weight.abs().unique().numel() < 2000
    assert pruned(prune(filled(weight), at(0.5))) == 50_000


def test_nothing_asked_is_nothing_pruned_and_everything_asked_is_everything() -> None:
    assert pruned(prune(filled(torch.zeros(8, 8)), at(0.0))) == 0
    assert pruned(prune(filled(torch.ones(8, 8)), at(1.0))) == 64


def test_ties_between_layers_do_not_make_a_global_ranking_prune_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    for layer in model:
        nn.init.constant_(layer.weight, 0.5)
    assert pruned(prune(model, at(0.5, pattern={"name": "neuron"}))) == 64


@pytest.mark.parametrize("shape", [(3, 3), (1, 9)])
def test_counts_are_rounded_alike_for_every_shape(shape: tuple[int, int]) -> None:
    assert pruned(prune(filled(torch.rand(shape)), at(0.3))) == 3  # 2.7, which truncation makes 2


def test_a_sparsity_is_a_share_of_all_prunable_weights_also_of_those_already_zero() -> None:
    weight = torch.arange(1.0, 101).reshape(10, 10)
    weight[:3] = 0.0
    assert pruned(prune(filled(weight), at(0.5))) == 50


def test_a_sparsity_asked_twice_is_the_same_sparsity() -> None:
    model = filled(torch.rand(10, 10))
    first = prune(model, at(0.5))
    assert prune(model, at(0.5)) == first


def test_a_sparsity_of_filters_counts_weights_and_prunes_a_quarter_where_a_quarter_is_asked() -> None:
    model = nn.Sequential(nn.Conv2d(4, 32, 3, bias=False), nn.Conv2d(32, 32, 3, bias=False))
    masks = prune(model, at(0.25, pattern={"name": "filter"}, allocation={"name": "uniform"}))
    assert [int((~mask.flatten(1).any(dim=1)).sum()) for mask in masks.values()] == [8, 8]


def test_an_optimizer_with_momentum_does_not_bring_half_of_the_weights_back() -> None:
    model = filled(torch.randn(16, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        model(torch.randn(4, 16)).square().sum().backward()
        optimizer.step()
    pruner = Pruner(model, at(0.5))
    pruner.update()
    model(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    assert (model.weight == 0).sum() < 128
    pruner.step()
    assert (model.weight == 0).sum() == 128
    pruner.attach(optimizer)
    model(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    assert (model.weight == 0).sum() == 128


def test_tied_weights_stay_tied_and_are_pruned_once() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.inner = nn.Embedding(50, 8), nn.Linear(8, 8, bias=False)
            self.again, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 50, bias=False)
            self.again.weight, self.head.weight = self.inner.weight, self.embed.weight

    model = Language()
    masks = prune(model, at(0.5))
    assert set(masks) == {"inner.weight"}
    assert model.head.weight is model.embed.weight
    assert model.again.weight is model.inner.weight
    assert (model.inner.weight == 0).sum() == 32
    assert model.embed.weight.all()


def test_what_is_measured_on_one_model_does_not_leak_into_the_next() -> None:
    data = [(torch.randn(16, 8), torch.randint(8, (16,)))]
    recipe = at(0.5, allocation={"name": "sensitivity"})
    one, other = (nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(2))
    twin = copy.deepcopy(one)
    first = prune(one, recipe, data)
    prune(other, recipe, data)
    assert prune(twin, recipe, data) == first


def test_keep_says_how_many_are_kept_and_not_how_many_are_zeroed() -> None:
    n_m = {"name": "n_m", "params": {"keep": 1, "of": 4}}
    assert prune(filled(torch.rand(4, 8)), at(0.75, pattern=n_m)).kept == 8


def test_no_group_of_four_reaches_over_the_end_of_a_row() -> None:
    n_m = {"name": "n_m", "params": {"keep": 2, "of": 4}}
    with pytest.raises(NothingToPrune, match="its input of 770 is no multiple of 4"):
        prune(filled(torch.rand(6, 770)), at(0.5, pattern=n_m))
    conv = nn.Conv2d(8, 6, 3)
    mask = prune(conv, at(0.5, pattern=n_m))["weight"]
    assert mask.permute(0, 2, 3, 1).reshape(-1, 4).sum(dim=1).eq(2).all()


def test_a_global_ranking_empties_no_layer_however_small_its_weights() -> None:
    model = nn.Sequential(*[filled(10.0**-i * torch.rand(10, 10)) for i in range(5)])
    masks = prune(model, at(0.9))
    assert pruned(masks) == 450
    assert all(mask.any() for mask in masks.values())


def test_a_block_pattern_works_for_any_input_or_refuses_with_the_reason() -> None:
    block = {"name": "block", "params": {"shape": [3, 2]}}
    assert pruned(prune(filled(torch.rand(9, 8)), at(0.5, pattern=block))) == 36
    with pytest.raises(NothingToPrune, match="do not divide"):
        prune(filled(torch.rand(10, 8)), at(0.5, pattern=block))


def test_nothing_in_a_recipe_is_evaluated() -> None:
    params = {"final_density": "__import__('os').getpid() * 0 + 0.1"}
    with pytest.raises(InvalidParams, match="valid number"):
        prune(nn.Linear(4, 4), at(0.5, schedule={"name": "exponential", "params": params}))


def test_a_pickle_is_not_read_as_masks(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    path.write_bytes(pickle.dumps({"weight": torch.ones(2, dtype=torch.bool)}))
    with pytest.raises(MaskMismatch, match="holds no masks"):
        MaskSet.load(path)


def test_the_first_forward_after_pruning_is_sparse() -> None:
    model = filled(torch.ones(1, 4))
    prune(model, at(0.5))
    assert model(torch.ones(1, 4)).item() == 2.0


def test_a_weight_and_its_layers_other_tensors_have_masks_of_their_own_names() -> None:
    masks = prune(ConvNet(), at(0.5))
    assert sorted(masks) == ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]


@pytest.mark.parametrize("criterion", ["taylor", "gradient", "random", "snip", "grasp", "fisher"])
def test_a_pruned_weight_with_a_high_score_is_not_revived(criterion: str) -> None:
    model = ConvNet().eval()
    fill(model, 0, tied=False)
    recipe = at(0.6, criterion={"name": criterion}, schedule={"name": "linear"})
    pruner = Pruner(model, recipe, batches(model))
    masks = [pruner.update(step / 5) for step in range(6)]
    assert all((after - before).kept == 0 for before, after in itertools.pairwise(masks))


def test_pruning_leaves_names_and_copies_of_a_model_alone() -> None:
    model = ConvNet()
    names = list(model.state_dict())
    twin = copy.deepcopy(model)
    prune(model, at(0.5))
    assert list(model.state_dict()) == names
    assert all(parameter.is_leaf for parameter in copy.deepcopy(model).parameters())
    assert twin.conv1.weight.all()
