"""Shuffled batches."""

from itertools import islice

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.training.batches import BatchPlan

plans = st.builds(BatchPlan.for_split, st.integers(1, 60), st.integers(1, 80))


def draw(plan: BatchPlan, epochs: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(islice(plan.indices(generator), epochs * plan.batches_per_epoch))


@given(plans)
def test_an_epoch_shows_no_sample_twice_and_leaves_less_than_a_batch(plan):
    seen = torch.cat(draw(plan, epochs=1))
    assert len(seen.unique()) == len(seen)
    assert 0 <= plan.samples - len(seen) < plan.batch_size
    assert int(seen.max()) < plan.samples


@given(plans)
def test_every_batch_is_full(plan):
    assert all(len(batch) == plan.batch_size for batch in draw(plan, epochs=3))


@given(plans, st.integers(0, 2**63 - 1))
def test_the_same_seed_gives_the_same_order(plan, seed):
    for one, two in zip(draw(plan, 2, seed), draw(plan, 2, seed), strict=True):
        assert torch.equal(one, two)


def test_epochs_and_seeds_differ_in_their_order():
    plan = BatchPlan.for_split(50, 50)
    (first, second), (other, _) = draw(plan, 2), draw(plan, 2, seed=1)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
