"""N:M groups run along the input of linear layers and convolutions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.worker.pruning.test_layers import Conv1D
from worker.pruning import Pruner, prune
from worker.pruning.errors import UnreachableTarget
from worker.pruning.registry import InvalidParams

PARAMS = st.tuples(st.integers(1, 20), st.integers(2, 20)).filter(lambda pair: pair[0] <= pair[1])


def n_m(keep: int, of: int, **more: object) -> dict[str, object]:
    pattern = {"name": "n_m", "params": {"keep": keep, "of": of}}
    return {"pattern": pattern, "target": {"value": 1 - keep / of}, **more}


def counts(mask: Tensor, dim: int, of: int) -> list[int]:
    """Return the number of kept weights in each group along a dimension."""
    return mask.movedim(dim, -1).reshape(-1, of).sum(dim=1).unique().tolist()


@settings(max_examples=25, deadline=None)
@given(PARAMS)
def test_every_group_along_the_input_keeps_exactly_so_many(params: tuple[int, int]) -> None:
    keep, of = params
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(2 * of, 3),
            "conv": nn.Conv2d(of, 5, 3),
            "grouped": nn.Conv2d(4 * of, 4, 3, groups=2),
            "line": nn.Conv1d(3 * of, 2, 1),
            "transposed": Conv1D(5, of),
        }
    )
    masks = prune(model, n_m(keep, of))
    for name, mask in masks.items():
        assert counts(mask, 0 if name.startswith("transposed") else 1, of) == [keep]
    assert masks.sparsity == pytest.approx(1 - keep / of)


def test_a_convolution_is_grouped_over_channels_at_each_kernel_position() -> None:
    conv = nn.Conv2d(4, 1, (1, 2), bias=False)
    with torch.no_grad():
        # [out, in, kernel]: at position 0 the channels are 4 3 2 1, at position 1 they are 1 2 3 4.
        conv.weight.copy_(torch.tensor([[4.0, 1], [3, 2], [2, 3], [1, 4]]).reshape(1, 4, 1, 2))
    masks = prune(conv, n_m(2, 4))
    assert masks["weight"].reshape(4, 2).long().tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_the_lowest_of_equal_weights_goes_first() -> None:
    linear = nn.Linear(8, 1, bias=False)
    nn.init.ones_(linear.weight)
    assert prune(linear, n_m(1, 4))["weight"].long().tolist() == [[0, 0, 0, 1, 0, 0, 0, 1]]


def test_a_layer_whose_input_does_not_divide_is_refused_with_its_reason() -> None:
    pruner = Pruner(nn.ModuleList([nn.Linear(8, 2), nn.Linear(6, 2)]), n_m(2, 4))
    assert set(pruner.masks) == {"0.weight"}
    (refused,) = [layer for layer in pruner.layers if layer.name == "1.weight"]
    assert refused.why_not == "its input of 6 is no multiple of 4"


@pytest.mark.parametrize("value", [0.0, 0.4, 0.7, 1.0])
def test_a_target_that_the_pattern_contradicts_names_the_one_it_reaches(value: float) -> None:
    with pytest.raises(UnreachableTarget, match=r"nearest reachable is 0\.5") as raised:
        prune(nn.Linear(8, 8), {**n_m(2, 4), "target": {"value": value}})
    assert raised.value.nearest == 0.5


def test_a_row_that_asks_for_another_sparsity_is_an_error_too() -> None:
    row = {"match": "*", "set": {"max_sparsity": 0.25}}
    with pytest.raises(UnreachableTarget, match=r"prunes 0\.5 of weight, whatever its row asks"):
        prune(nn.Linear(8, 8), n_m(2, 4, layers=[row]))


def test_keeping_more_than_there_are_is_refused() -> None:
    with pytest.raises(InvalidParams, match="cannot keep 5 of 4"):
        prune(nn.Linear(8, 8), {**n_m(5, 4), "target": {"value": 0.5}})


def test_a_gradual_schedule_prunes_only_what_the_pattern_lets_go() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    pruner = Pruner(model, n_m(1, 4, schedule={"name": "linear"}))
    for step in range(1, 11):
        mask = pruner.update(step / 10)["weight"]
        assert mask.sum() == 64 * 64 - round(step / 10 * 0.75 * 64 * 64)
        assert bool((mask.reshape(-1, 4).sum(dim=1) >= 1).all())
        pruner.step()
        with torch.no_grad():
            model.weight.add_(torch.randn(64, 64))
    assert counts(mask, 1, 4) == [1]
