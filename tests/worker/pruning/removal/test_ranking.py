"""Laws of the order in which units go, and of the limits that it keeps to."""

import itertools
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.pruning.removal.groups import Cut, Group
from worker.pruning.removal.ranking import find_limits, order_units
from worker.pruning.removal.tracer import Axis

GENERATOR = torch.Generator().manual_seed(4)
RANKINGS = ["global", "local", "isomorphic", "uniform"]


def group(name: str, units: int) -> Group:
    return Group(name, "neuron", (Cut(Axis(name, 0), torch.arange(units)[:, None]),))


scores = st.lists(st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=9), min_size=1, max_size=4)


@given(scores, st.sampled_from(RANKINGS), st.sampled_from([1, 2, 4]), st.data())
def test_no_unit_that_stays_is_less_important_than_one_of_its_group_that_goes(
    rows: list[list[float]], ranking: Any, multiple_of: int, data: st.DataObject
) -> None:
    groups = [group(f"g{number}.weight", len(row)) for number, row in enumerate(rows)]
    given_scores = {one.name: torch.tensor(row) for one, row in zip(groups, rows, strict=True)}
    limits = {one.name: find_limits(one.units, low=0.0, high=1.0, multiple=multiple_of) for one in groups}
    order = order_units(groups, given_scores, limits, ranking=ranking)
    assert order.count_units(len(order.steps)) == sum(max(len(row) - multiple_of, 0) for row in rows)
    count = data.draw(st.integers(0, len(order.steps)))
    kept = order.keep(count)
    assert order.count_units(count) == sum(int((~mask).sum()) for mask in kept.values())
    for name, mask in kept.items():
        assert mask.any()
        assert int(mask.sum()) % multiple_of == 0 or mask.all() or int(mask.sum()) < multiple_of <= len(mask)
        if not mask.all():
            assert given_scores[name][mask].min() >= given_scores[name][~mask].max()


@given(scores, st.sampled_from(["global", "local", "isomorphic"]))
def test_removing_more_never_brings_a_unit_back(rows: list[list[float]], ranking: Any) -> None:
    groups = [group(f"g{number}.weight", len(row)) for number, row in enumerate(rows)]
    given_scores = {one.name: torch.tensor(row) for one, row in zip(groups, rows, strict=True)}
    limits = {one.name: find_limits(one.units, low=0.2, high=0.8) for one in groups}
    order = order_units(groups, given_scores, limits, ranking=ranking)
    steps = [order.keep(count) for count in range(order.forced, len(order.steps) + 1)]
    for before, after in itertools.pairwise(steps):
        assert all(bool((before[name] | ~after[name]).all()) for name in before)
        assert (
            sum(int(mask.sum()) for mask in after.values())
            == sum(map(int, map(torch.sum, before.values()))) - 1
        )


@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(RANKINGS),
)
def test_sizes_are_multiples_within_their_bounds_wherever_there_is_one(
    units: int, multiple: int, low: float, high: float, ranking: Any
) -> None:
    low, high = min(low, high), max(low, high)
    most = min(round(high * units), units - 1)
    least = min(round(low * units), most)
    fits = {units - gone for gone in range(least, most + 1) if gone == 0 or (units - gone) % multiple == 0}
    limits = find_limits(units, low=low, high=high, multiple=multiple)
    assert (limits.low <= limits.high) == bool(fits)
    if not fits:
        return
    one = group("a.weight", units)
    order = order_units([one], {one.name: torch.arange(float(units))}, {one.name: limits}, ranking=ranking)
    for count in range(order.forced, len(order.steps) + 1):
        assert int(order.keep(count)[one.name].sum()) in fits
    assert int(order.keep(order.forced)[one.name].sum()) == max(fits)
    assert int(order.keep(len(order.steps))[one.name].sum()) == min(fits)


def test_uniform_ranking_leaves_groups_of_one_make_at_one_size() -> None:
    groups = [group(f"blocks.{number}.up.weight", 10) for number in range(3)]
    given_scores = {one.name: torch.randn(10, generator=GENERATOR) for one in groups}
    limits = {one.name: find_limits(one.units, low=0.2, high=0.8) for one in groups}
    order = order_units(groups, given_scores, limits, ranking="uniform")
    assert order.forced == 2
    for count in range(order.forced, len(order.steps) + 1):
        assert {int(mask.sum()) for mask in order.keep(count).values()} == {10 - count}
        assert order.count_units(count) == 3 * count


def test_local_ranking_takes_the_same_share_of_every_group() -> None:
    groups = [group("a.weight", 10), group("b.weight", 20)]
    given_scores = {"a.weight": torch.arange(10.0), "b.weight": 1000 + torch.arange(20.0)}
    limits = {one.name: find_limits(one.units, low=0.0, high=1.0) for one in groups}
    kept = order_units(groups, given_scores, limits, ranking="local").keep(15)
    assert [int(mask.sum()) for mask in kept.values()] == [5, 10]


@given(scores, st.sampled_from(["global", "local", "isomorphic"]), st.sampled_from([0.25, 8.0]))
def test_what_scale_a_group_s_scores_have_does_not_matter(
    rows: list[list[float]], ranking: Any, scale: float
) -> None:
    groups = [group(f"g{number}.weight", len(row)) for number, row in enumerate(rows)]
    given_scores = {one.name: torch.tensor(row) for one, row in zip(groups, rows, strict=True)}
    scaled = {**given_scores, groups[0].name: scale * given_scores[groups[0].name]}
    limits = {one.name: find_limits(one.units, low=0.0, high=1.0) for one in groups}
    first, then = (
        order_units(groups, values, limits, ranking=ranking).steps for values in (given_scores, scaled)
    )
    assert first == then


def test_scores_of_either_sign_are_compared_by_their_share_of_the_mean_size() -> None:
    groups = [group("a.weight", 3), group("b.weight", 3)]
    given_scores = {"a.weight": torch.tensor([2.0, 2.0, 5.0]), "b.weight": torch.tensor([-9.0, 1.0, 5.0])}
    limits = {one.name: find_limits(3, low=0.0, high=1.0) for one in groups}
    order = order_units(groups, given_scores, limits, ranking="global")
    # Mean sizes are 3 and 5: -1.8 and 0.2 of b, then 0.67 twice of a; the last of each stays.
    assert order.steps == (((1, 0),), ((1, 1),), ((0, 0),), ((0, 1),))
