"""Tiles of a weight live and die together."""

import pytest
import torch
from torch import nn

from tests.worker.pruning.test_layers import Conv1D
from worker.pruning import Pruner, prune
from worker.pruning.errors import NothingToPrune


def block(*shape: int, value: float = 0.5, **params: object) -> dict[str, object]:
    return {
        "pattern": {"name": "block", "params": {"shape": list(shape), **params}},
        "target": {"value": value},
    }


def test_the_weakest_tiles_go_as_a_whole() -> None:
    model = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        # Tiles by mean: 1, 4 over 3, 2, though the second holds a zero.
        model.weight.copy_(torch.tensor([[1.0, 1, 0, 8], [1, 1, 0, 8], [3, 3, 2, 2], [3, 3, 2, 2]]))
    masks = prune(model, block(2, 2))
    assert masks["weight"].long().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize(("reduction", "kept"), [("mean", 0), ("sum", 0), ("l2", 1), ("max", 1)])
def test_the_reduction_decides_what_a_tile_is_worth(reduction: str, kept: int) -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 3.0, 0.0, 5.0]]))  # sums 6 and 5, norms 4.2 and 5
    masks = prune(model, block(1, 2, reduction=reduction))
    assert masks["weight"].reshape(2, 2)[:, 0].long().tolist() == [1 - kept, kept]


def test_sides_left_out_are_one_so_each_kernel_position_has_its_own_tiles() -> None:
    torch.manual_seed(0)
    mask = prune(nn.Conv2d(4, 4, 3), block(2, 2))["weight"]
    tiles = mask.reshape(2, 2, 2, 2, 9).permute(0, 2, 4, 1, 3).reshape(-1, 4)
    assert torch.equal(tiles.all(dim=1), tiles.any(dim=1))
    assert tiles.any(dim=1).sum() == 18
    assert mask.reshape(16, 9).sum(dim=0).unique().numel() > 1


def test_a_transposed_weight_has_its_tiles_as_out_by_in() -> None:
    torch.manual_seed(0)
    mask = prune(nn.ModuleDict({"c": Conv1D(4, 6)}), block(4, 1))["c.weight"]  # [in 6, out 4]
    assert mask.sum() == 12
    assert torch.equal(mask.all(dim=1), mask.any(dim=1))


def test_layers_that_the_tiles_do_not_fit_are_refused_with_the_reason() -> None:
    model = nn.ModuleDict(
        {
            "fits": nn.Linear(8, 8),
            "small": nn.Linear(8, 2),
            "odd": nn.Linear(8, 6),
            "conv": nn.Conv2d(4, 4, 3),
        }
    )
    pruner = Pruner(model, block(4, 4))
    reasons = {layer.module_name: layer.why_not for layer in pruner.layers if layer.name.endswith("weight")}
    assert reasons == {
        "fits": None,
        "small": "a block of (4, 4) is larger than its (2, 8)",
        "odd": "blocks of (4, 4) do not divide its (6, 8)",
        "conv": None,
    }


def test_a_block_larger_than_every_tensor_is_an_error_that_says_so() -> None:
    with pytest.raises(NothingToPrune, match=r"weight a block of \(64, 64\) is larger than its \(8, 8\)"):
        prune(nn.Linear(8, 8), block(64, 64))


def test_a_block_with_more_sides_than_the_weight_is_refused() -> None:
    with pytest.raises(NothingToPrune, match="has more sides than"):
        prune(nn.Linear(8, 8), block(1, 1, 3, 3))
