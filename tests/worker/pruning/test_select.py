"""Exact selection against the plainest possible reference: a stable sort of everything at once."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker.pruning.errors import NonfiniteScores
from worker.pruning.ranked import Ranked
from worker.pruning.select import keep_highest
from worker.pruning.select_on_device import select_on_device

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def sort_everything(ranked: Sequence[Ranked], count: int) -> list[Tensor]:
    """Prune by one stable sort of all values, in float64."""
    values = [one.values.double().reshape(-1) for one in ranked]
    values = [v.abs() if one.absolute else v for v, one in zip(values, ranked, strict=True)]
    for one, value in zip(ranked, values, strict=True):
        if one.mask is not None:
            value[~one.mask.reshape(-1)] = -math.inf
        if one.protected is not None:
            value[one.protected.reshape(-1)] = math.inf
    kept = torch.ones(sum(one.numel for one in ranked), dtype=torch.bool)
    kept[torch.cat(values).argsort(stable=True)[:count]] = False
    parts = torch.split(kept, [one.numel for one in ranked])
    return [part.reshape(one.values.shape) for part, one in zip(parts, ranked, strict=True)]


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[Ranked], int]:
    """Several small tensors, often tied, of one dtype, some partly pruned or protected; and a count."""
    dtype = draw(st.sampled_from(DTYPES))
    absolute = draw(st.booleans())
    number = st.integers(-3, 3) if draw(st.booleans()) else st.floats(-100, 100, width=16)
    ranked = []
    for _ in range(draw(st.integers(1, 4))):
        values = torch.tensor(draw(st.lists(number, max_size=12)), dtype=dtype)
        flags = st.lists(st.booleans(), min_size=len(values), max_size=len(values))
        mask = torch.tensor(draw(flags), dtype=torch.bool) if draw(st.booleans()) else None
        protected = torch.tensor(draw(flags), dtype=torch.bool) if draw(st.booleans()) else None
        if mask is not None and protected is not None:
            protected &= mask
        ranked.append(Ranked(values, absolute=absolute, mask=mask, protected=protected))
    low, high = sum(one.pruned for one in ranked), sum(one.prunable for one in ranked)
    return ranked, draw(st.integers(low, high))


@given(rankings())
def test_selection_is_that_of_one_stable_sort(case: tuple[list[Ranked], int]) -> None:
    ranked, count = case
    assert_same(keep_highest(ranked, count), sort_everything(ranked, count))


@given(rankings())
def test_a_device_selects_what_the_cpu_does(case: tuple[list[Ranked], int]) -> None:
    ranked, count = case
    if sum(one.pruned for one in ranked) < count < sum(one.prunable for one in ranked):
        assert_same(select_on_device(ranked, count), keep_highest(ranked, count))


def test_a_device_refuses_what_is_no_number() -> None:
    with pytest.raises(NonfiniteScores, match="broken hold nan at flat index 1"):
        select_on_device([Ranked(torch.tensor([0.0, math.nan, 1.0]), name="broken")], 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fraction", [0.0, 1e-6, 0.1, 0.7, 0.999, 1.0])
def test_large_tensors_are_selected_as_by_one_stable_sort(dtype: torch.dtype, fraction: float) -> None:
    torch.manual_seed(0)
    ranked = [
        Ranked(torch.randn(shape).to(dtype), absolute=True) for shape in [(600, 500), (3, 40_000), (7,)]
    ]
    count = round(fraction * 420_007)
    assert_same(keep_highest(ranked, count), sort_everything(ranked, count))


@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.41, 0.7])
@pytest.mark.parametrize(
    "values",
    [
        torch.full((400_000,), 0.5),
        torch.where(torch.arange(400_000) % 5 < 2, 0.0, torch.linspace(-1, 1, 400_000)),
        torch.randint(-2, 3, (400_000,), generator=torch.Generator().manual_seed(1)).float(),
        # Two clouds so far apart that a bracket around their border holds nothing.
        torch.cat([torch.linspace(0, 1e-30, 160_000), torch.linspace(1e30, 2e30, 240_000)]),
    ],
    ids=["constant", "two fifths zero", "five values", "two clouds"],
)
def test_ties_and_gaps_are_split_by_position(values: Tensor, fraction: float) -> None:
    ranked = [Ranked(values[:150_000], absolute=True), Ranked(values[150_000:], absolute=True)]
    count = round(fraction * len(values))
    assert_same(keep_highest(ranked, count), sort_everything(ranked, count))


def test_a_sample_that_misleads_does_not_change_the_result() -> None:
    # The positions that the selection draws are the same every time: lie at all of them.
    values = torch.linspace(0, 1, 1_000_000)
    drawn = np.random.default_rng(0).integers(1_000_000, size=1_000_000 // 16)
    values[torch.from_numpy(drawn)] += 10
    for count in (1000, 500_000, 900_000):
        assert_same(keep_highest([Ranked(values)], count), sort_everything([Ranked(values)], count))


def test_large_partly_pruned_and_protected_tensors_are_selected_as_by_one_stable_sort() -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(500_000, generator=generator)
    mask = torch.rand(500_000, generator=generator) > 0.3
    protected = mask & (torch.rand(500_000, generator=generator) > 0.8)
    for count in (170_000, 250_000, 330_000):
        ranked = [Ranked(values, absolute=True, mask=mask, protected=protected)]
        assert_same(keep_highest(ranked, count), sort_everything(ranked, count))


def test_a_scale_lets_one_tensor_count_for_less() -> None:
    weak, strong = Ranked(torch.tensor([4.0, 8.0]), scale=0.125), Ranked(torch.tensor([0.75, 2.0]))
    kept = keep_highest([weak, strong], 2)  # 0.5, 1.0 against 0.75, 2.0
    assert [mask.tolist() for mask in kept] == [[False, True], [False, True]]


def test_a_view_that_is_not_contiguous_is_ranked_in_its_own_order() -> None:
    weight = torch.tensor([[1.0, 2.0], [1.0, 3.0]]).t()  # [[1, 1], [2, 3]]
    kept = keep_highest([Ranked(weight)], 1)
    assert kept[0].tolist() == [[False, True], [True, True]]


def test_both_zeros_are_one_value() -> None:
    kept = keep_highest([Ranked(torch.tensor([0.0, -0.0, 0.0, 1.0]))], 1)
    assert kept[0].tolist() == [False, True, True, True]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [5, 300_000])
@pytest.mark.parametrize("count", [0, 2])
def test_a_score_that_is_no_number_is_refused_by_name_and_place(bad: float, size: int, count: int) -> None:
    values = torch.ones(size)
    values[3] = bad
    with pytest.raises(NonfiniteScores, match=r"fc\.weight hold .* at flat index 3"):
        keep_highest([Ranked(values, name="fc.weight")], count)


def test_finite_scores_whose_sum_overflows_are_ranked() -> None:
    values = torch.full((10,), 3e38)
    assert keep_highest([Ranked(values)], 4)[0].tolist() == [False] * 4 + [True] * 6


@pytest.mark.parametrize("count", [-1, 6])
def test_a_count_beyond_what_is_there_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 5"):
        keep_highest([Ranked(torch.ones(5))], count)


def test_a_count_below_what_is_pruned_already_is_refused() -> None:
    with pytest.raises(ValueError, match="between 2 and 3"):
        keep_highest([Ranked(torch.ones(3), mask=torch.tensor([False, True, False]))], 1)


def test_empty_tensors_take_part_without_effect() -> None:
    kept = keep_highest(
        [Ranked(torch.empty(0)), Ranked(torch.tensor([2.0, 1.0])), Ranked(torch.empty(0, 3))], 1
    )
    assert [mask.shape for mask in kept] == [(0,), (2,), (0, 3)]
    assert kept[1].tolist() == [True, False]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 300_000), st.integers(0, 2**32 - 1))
def test_more_pruned_is_a_superset_of_less_pruned(count: int, seed: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=300_001).astype(np.float32)).bfloat16()
    less, more = (keep_highest([Ranked(values, absolute=True)], n)[0] for n in (count, count + 1))
    assert bool((more <= less).all())
