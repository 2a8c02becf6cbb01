"""Wanda against loops over inputs, and its comparison within rows."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.worker.pruning.criteria.tiny import Conv1D, statistics_of
from worker.pruning.criteria.wanda import Wanda
from worker.pruning.statistics import LayerStatistics


def _scores(layer: nn.Module, x: torch.Tensor, compare: str = "layer") -> torch.Tensor:
    stats = statistics_of(layer, "weight", "input_norm", data=[(x[:2], None), (x[2:], None)])
    return Wanda(compare=compare).score(layer.weight, stats)


def test_it_is_the_weight_times_the_norm_of_its_input_over_samples_and_tokens():
    layer, x = nn.Linear(4, 3), torch.randn(5, 6, 4)
    expected = torch.empty(3, 4)
    for out in range(3):
        for feature in range(4):
            squares = sum(x[n, t, feature].item() ** 2 for n in range(5) for t in range(6))
            expected[out, feature] = abs(layer.weight[out, feature].item()) * squares**0.5
    torch.testing.assert_close(_scores(layer, x), expected)


def test_a_transposed_layer_scores_as_the_linear_layer_it_is():
    transposed, x = Conv1D(4, 3), torch.randn(5, 4)
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight.copy_(transposed.weight.t())
    for compare in ("row", "layer"):
        torch.testing.assert_close(_scores(transposed, x, compare).t(), _scores(linear, x, compare))


def test_a_grouped_convolution_takes_the_norms_of_its_own_groups_inputs():
    conv = nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1)
    x = torch.randn(3, 4, 7, 7)
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    expected = torch.empty(6, 2, 3, 3)
    for out in range(6):
        for channel in range(2):
            for i in range(3):
                for j in range(3):
                    # Stride 2 over 7 + 2 pixels: 4 positions in each direction.
                    seen = padded[:, 2 * (out // 3) + channel, i : i + 7 : 2, j : j + 7 : 2]
                    norm = seen.square().sum().sqrt()
                    expected[out, channel, i, j] = conv.weight[out, channel, i, j].abs() * norm
    torch.testing.assert_close(_scores(conv, x), expected.detach())


@given(rows=st.integers(1, 6), features=st.integers(1, 8), share=st.integers(0, 8), seed=st.integers(0, 99))
def test_within_rows_every_row_loses_its_own_lowest(rows, features, share, seed):
    share = min(share, features)
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers, so that there are ties within rows and across them.
    weight = torch.randint(-3, 4, (rows, features), generator=generator).float()
    norm = torch.randint(0, 3, (1, features), generator=generator).float()
    scores = Wanda().score(weight, LayerStatistics(input_norm=norm))
    pruned = scores.flatten().argsort(stable=True)[: share * rows]
    mask = torch.ones(rows * features, dtype=torch.bool)
    mask[pruned] = False
    products = weight.abs() * norm
    for kept, product in zip(mask.view(rows, features), products, strict=True):
        assert int((~kept).sum()) == share
        if 0 < share < features:
            assert product[~kept].max() <= product[kept].min()


def test_worked_number_within_rows():
    # Products: row 0: 2, 2, 6; row 1: 10, 1, 3. Ranks 0, 1, 2 and 2, 0, 1 over 3, plus product/10 · 0.5/3.
    stats = LayerStatistics(input_norm=torch.tensor([[2.0, 1.0, 3.0]]))
    weight = torch.tensor([[1.0, -2.0, 2.0], [5.0, 1.0, -1.0]])
    expected = torch.tensor([[0 + 0.1, 1 + 0.1, 2 + 0.3], [2 + 0.5, 0 + 0.05, 1 + 0.15]]) / 3
    torch.testing.assert_close(Wanda().score(weight, stats), expected)


def test_inputs_that_are_all_zero_score_by_rank_and_not_nan():
    scores = Wanda().score(torch.ones(2, 3), LayerStatistics(input_norm=torch.zeros(1, 3)))
    torch.testing.assert_close(scores, torch.tensor([[0.0, 1.0, 2.0]] * 2) / 3)
