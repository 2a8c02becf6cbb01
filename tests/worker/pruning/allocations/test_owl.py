"""Layers with many outliers give less."""

import pytest
import torch
from torch import Tensor, nn

from worker.pruning import prune
from worker.pruning.errors import MissingData


class TwoLayers(nn.Module):
    """Two layers side by side; one holds outliers: weights six times the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.calm, self.wild = nn.Linear(100, 10, bias=False), nn.Linear(100, 10, bias=False)
        with torch.no_grad():
            self.calm.weight.fill_(1.0)
            self.wild.weight.fill_(1.0)
            self.wild.weight[:, :5] = 100.0

    def forward(self, x: Tensor) -> Tensor:
        return self.calm(x) + self.wild(x)


DATA = [(torch.ones(2, 100), torch.zeros(2, dtype=torch.int64))]


def recipe(value: float = 0.5, **params: object) -> dict[str, object]:
    return {"allocation": {"name": "owl", "params": params}, "target": {"value": value}}


def test_the_layer_with_outliers_is_pruned_less_by_twice_lambda() -> None:
    # D is 0 and 0.05, scaled to 0 and 2 lambda = 0.16, mean 0.08: sparsities 0.5 + 0.08 and 0.5 - 0.08.
    masks = prune(TwoLayers(), recipe(), DATA)
    assert masks.sparsities() == pytest.approx({"calm.weight": 0.58, "wild.weight": 0.42})


def test_the_inputs_norm_counts_as_much_as_the_weight() -> None:
    # What is six times the mean by its weight is not when its input is a hundredth.
    data = [(torch.cat([torch.full((2, 5), 0.01), torch.ones(2, 95)], dim=1), DATA[0][1])]
    assert prune(TwoLayers(), recipe(), data).sparsities() == pytest.approx(
        {"calm.weight": 0.5, "wild.weight": 0.5}
    )


def test_lambda_zero_is_uniform() -> None:
    assert set(prune(TwoLayers(), recipe(spread=0.0), DATA).sparsities().values()) == {0.5}


def test_without_data_it_says_that_it_needs_some() -> None:
    with pytest.raises(MissingData, match="OutlierWeighed needs data"):
        prune(TwoLayers(), recipe())
