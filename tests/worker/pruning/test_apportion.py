"""Dividing a number of weights among units in proportion to shares."""

from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pruning.apportion import apportion, in_proportion
from worker.pruning.protocols import Bounds, Unit

Case = tuple[list[Unit], list[float], list[Bounds]]


def unit(groups: int, size: int) -> Unit:
    return cast(Unit, SimpleNamespace(groups=groups, group_size=size, numel=groups * size))


def weights(units: list[Unit], counts: list[int]) -> int:
    return sum(count * one.group_size for one, count in zip(units, counts, strict=True))


@st.composite
def cases(draw: st.DrawFn, size: st.SearchStrategy[int]) -> Case:
    units, shares, bounds = [], [], []
    one_size = draw(size)
    for _ in range(draw(st.integers(1, 6))):
        groups = draw(st.integers(0, 40))
        low = draw(st.integers(0, groups))
        units.append(unit(groups, one_size))
        shares.append(draw(st.floats(0.001, 1e6)))
        bounds.append(Bounds(low, draw(st.integers(low, groups))))
    return units, shares, bounds


@st.composite
def mixed_cases(draw: st.DrawFn) -> Case:
    """Units whose groups have sizes of their own."""
    units, shares, bounds = draw(cases(st.just(1)))
    return [unit(one.groups, draw(st.integers(1, 20))) for one in units], shares, bounds


@given(cases(st.integers(1, 5)), st.floats(0.0, 1.0))
def test_the_count_is_exact_and_every_unit_within_its_bounds(case: Case, fraction: float) -> None:
    units, shares, bounds = case
    low = sum(bound.low for bound in bounds)
    high = sum(bound.high for bound in bounds)
    asked = low + round(fraction * (high - low))
    counts = apportion(units, in_proportion(shares), asked * units[0].group_size, bounds)
    assert sum(counts) == asked
    assert all(bound.low <= count <= bound.high for count, bound in zip(counts, bounds, strict=True))


@given(st.one_of(cases(st.just(1)), mixed_cases()), st.integers(0, 600))
def test_asking_for_more_takes_nothing_back(case: Case, asked: int) -> None:
    units, shares, bounds = case
    less, more = (apportion(units, in_proportion(shares), asked + extra, bounds) for extra in (0, 1))
    assert all(one <= other for one, other in zip(less, more, strict=True))


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=8), st.floats(0.0, 1.0))
def test_equal_shares_of_every_weight_give_every_unit_the_same_sparsity(
    sizes: list[int], sparsity: float
) -> None:
    units = [unit(size, 1) for size in sizes]
    free = [Bounds(0, size) for size in sizes]
    counts = apportion(
        units, in_proportion([float(size) for size in sizes]), round(sparsity * sum(sizes)), free
    )
    # Webster's method may leave the quota, but hardly: never by more than half a group per other unit.
    assert all(
        abs(count - sparsity * size) <= 1 + len(sizes) / 2 for count, size in zip(counts, sizes, strict=True)
    )


@given(mixed_cases(), st.floats(0.0, 1.0))
def test_units_of_mixed_sizes_come_within_half_of_the_largest_group(case: Case, fraction: float) -> None:
    units, shares, bounds = case
    low = weights(units, [bound.low for bound in bounds])
    high = weights(units, [bound.high for bound in bounds])
    asked = low + round(fraction * (high - low))
    found = weights(units, apportion(units, in_proportion(shares), asked, bounds))
    assert abs(found - asked) <= max(one.group_size for one in units) / 2


def test_units_of_other_sizes_come_as_near_as_whole_groups_allow() -> None:
    units = [unit(4, 10), unit(4, 3)]
    free = [Bounds(0, 4), Bounds(0, 4)]
    counts = apportion(units, in_proportion([40.0, 12.0]), 26, free)
    assert weights(units, counts) == 26


def test_a_unit_without_a_share_gives_no_more_than_it_must() -> None:
    units = [unit(10, 1), unit(10, 1)]
    assert apportion(units, in_proportion([0.0, 1.0]), 6, [Bounds(2, 10), Bounds(0, 10)]) == [2, 4]


def test_the_worked_example_of_websters_method() -> None:
    # 7 of 10, 20 and 70 groups: priorities (n - 1/2) / share; the divisor 14 gives 0.71, 1.43 and 5.
    units = [unit(10, 1), unit(20, 1), unit(70, 1)]
    free = [Bounds(0, one.groups) for one in units]
    assert apportion(units, in_proportion([10.0, 20.0, 70.0]), 7, free) == [1, 1, 5]


def test_units_give_beyond_their_share_when_the_others_are_exhausted() -> None:
    units = [unit(10, 1), unit(10, 1)]
    assert apportion(units, in_proportion([0.0, 1.0]), 14, [Bounds(0, 10), Bounds(0, 10)]) == [4, 10]


@pytest.mark.parametrize("asked", [0, 40])
def test_nothing_and_everything_are_exact(asked: int) -> None:
    units = [unit(30, 1), unit(10, 1)]
    assert sum(apportion(units, in_proportion([1.0, 1.0]), asked, [Bounds(0, 30), Bounds(0, 10)])) == asked
