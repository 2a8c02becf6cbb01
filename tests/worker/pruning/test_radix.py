"""The radix search against sorting."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.pruning.radix import find_value
from worker.pruning.ranked import Ranked


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.data())
def test_the_kth_value_is_that_of_sorting(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    found = find_value([Ranked(torch.tensor(values[:2])), Ranked(torch.tensor(values[2:]))], count)
    assert found == sorted(values)[count - 1]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.data())
def test_the_kth_value_of_float64_is_that_of_sorting(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    found = find_value([Ranked(torch.tensor(values, dtype=torch.float64))], count)
    assert found == sorted(values)[count - 1]


def test_pruned_values_come_first_and_protected_ones_last() -> None:
    mask, protected = torch.tensor([True, False, True]), torch.tensor([True, False, False])
    ranked = [Ranked(torch.tensor([1.0, 2.0, 3.0]), mask=mask, protected=protected)]
    assert [find_value(ranked, count) for count in (1, 2, 3)] == [-math.inf, 3.0, math.inf]


def test_the_scores_that_are_ranked_stay_as_they_are() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0])
    mask, protected = torch.tensor([True, False, True]), torch.tensor([True, False, False])
    assert find_value([Ranked(scores, mask=mask, protected=protected)], 2) == 3.0
    assert scores.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("smallest", [2.0**-149, -(2.0**-149), 0.0])
def test_the_smallest_floats_are_told_apart(smallest: float) -> None:
    assert find_value([Ranked(torch.tensor([1.0, smallest]))], 1) == smallest
