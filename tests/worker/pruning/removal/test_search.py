"""The search for a size: laws over all sizes, limits and counts at which the model cannot be measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pruning.errors import UnreachableTarget
from worker.pruning.removal.search import Goal, NotMeasured, find_fewest, find_most

STEPS = 30
counts = st.integers(0, STEPS + 1)


def measure(count: int, fails_from: int) -> float:
    if count >= fails_from:
        raise NotMeasured(count, ValueError("too narrow"))
    return float(STEPS - count)


@given(counts, counts)
def test_the_fewest_are_found_below_where_the_model_fails(enough: int, fails_from: int) -> None:
    def search() -> int:
        goal = Goal("macs", float(STEPS - enough))
        return find_fewest(0, STEPS, lambda one: measure(one, fails_from), goal)[0]

    if enough < min(fails_from, STEPS + 1):
        assert search() == enough
        return
    with pytest.raises(NotMeasured if fails_from <= STEPS else UnreachableTarget) as caught:
        search()
    if isinstance(caught.value, NotMeasured):
        assert caught.value.count == fails_from


@given(counts, counts)
def test_the_most_are_found_below_where_the_model_fails(allowed: int, fails_from: int) -> None:
    def search() -> int:
        def drop(count: int) -> float:
            return STEPS - measure(count, fails_from)

        return find_most(0, STEPS, drop, Goal("accuracy_drop", float(allowed)), probes=99)[0]

    if fails_from == 0:
        with pytest.raises(NotMeasured):
            search()
    else:
        assert search() == min(allowed, fails_from - 1, STEPS)


@given(counts, counts, counts)
def test_what_has_to_go_in_any_case_may_cost_more_than_is_due_and_no_more_than_is_asked(
    forced: int, due: int, more: int
) -> None:
    goal = Goal("accuracy_drop", float(due + more), due=float(due))

    def search() -> int:
        return find_most(forced, STEPS + 1, float, goal, probes=99)[0]

    if forced <= due + more:
        assert search() == min(max(forced, due), STEPS + 1)
        return
    with pytest.raises(UnreachableTarget) as caught:
        search()
    assert (caught.value.asked, caught.value.nearest) == (goal.value, forced)


def test_a_size_that_cannot_be_had_is_named_as_it_was_asked_for() -> None:
    with pytest.raises(UnreachableTarget, match="asked for macs 2, the nearest reachable is 5") as caught:
        find_fewest(0, STEPS, lambda count: 35.0 - count, Goal("macs", 2.0, due=4.0))
    assert caught.value.asked == 2.0
