"""The search for a size: laws over all sizes, limits and counts at which the model cannot be measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.pruning.errors import UnreachableTarget
from worker.pruning.removal.search import NotMeasured, find_fewest, find_most

STEPS = 30
counts = st.integers(0, STEPS + 1)


def measure(count: int, fails_from: int) -> float:
    if count >= fails_from:
        raise NotMeasured(count, ValueError("too narrow"))
    return float(STEPS - count)


@given(counts, counts)
def test_the_fewest_are_found_below_where_the_model_fails(enough: int, fails_from: int) -> None:
    def search() -> int:
        limit = float(STEPS - enough)
        return find_fewest(0, STEPS, lambda one: measure(one, fails_from), limit=limit, metric="macs")[0]

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

        return find_most(0, STEPS, drop, limit=float(allowed), metric="accuracy_drop", probes=99)[0]

    if fails_from == 0:
        with pytest.raises(NotMeasured):
            search()
    else:
        assert search() == min(allowed, fails_from - 1, STEPS)
