"""Which samples a step sees."""

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.training.batches import BatchPlan

plans = st.builds(
    BatchPlan.for_split,
    st.integers(1, 60),
    st.integers(1, 80),
    accumulate=st.integers(1, 4),
    seed=st.integers(0, 2**63 - 1),
    lengths=st.none() | st.just(torch.arange(60) * 7 % 11),
)


def draw_epoch(plan: BatchPlan, epoch: int = 0) -> torch.Tensor:
    first = epoch * plan.steps_per_epoch
    return torch.cat([torch.cat(plan.batches(first + i)) for i in range(plan.steps_per_epoch)])


@given(plans)
def test_an_epoch_shows_no_sample_twice_and_leaves_less_than_a_step(plan):
    seen = draw_epoch(plan)
    assert len(seen.unique()) == len(seen)
    assert 0 <= plan.samples - len(seen) < plan.step_size
    assert int(seen.max()) < plan.samples


@given(plans, st.integers(0, 50))
def test_every_step_is_full_and_its_batches_differ_by_one_sample_at_most(plan, step):
    sizes = [len(batch) for batch in plan.batches(step)]
    assert sum(sizes) == plan.step_size
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@given(plans, st.integers(0, 50))
def test_a_step_is_known_without_those_before_it(plan, step):
    again = replace(plan)
    for earlier in range(step):
        plan.batches(earlier)
    assert all(torch.equal(*pair) for pair in zip(plan.batches(step), again.batches(step), strict=True))


@given(plans, st.integers(0, 50))
def test_half_the_batch_size_sees_the_same_samples_in_smaller_batches(plan, step):
    halved = plan.halved()
    assert torch.equal(torch.cat(halved.batches(step)), torch.cat(plan.batches(step)))
    assert max(map(len, halved.batches(step))) <= -(-max(map(len, plan.batches(step))) // 2)


@given(plans, st.booleans())
def test_the_first_epoch_and_its_rest_are_the_whole_split_in_no_larger_batches(plan, is_halved):
    plan = plan.halved() if is_halved else plan
    assert torch.cat(plan.first_epoch()).sort().values.tolist() == list(range(plan.samples))
    assert max(map(len, plan.first_epoch())) == max(map(len, plan.batches(0)))


@given(plans, st.integers(1, 5))
def test_batches_for_statistics_are_of_one_size_and_show_no_sample_twice(plan, most):
    drawn = plan.draw_equal(most)
    size = max(map(len, plan.batches(0)))
    assert [len(batch) for batch in drawn] == [size] * min(most, plan.samples // size)
    assert len(torch.cat(drawn).unique()) == size * len(drawn)


def test_a_step_sees_samples_of_nearly_one_length_and_not_the_short_ones_first():
    lengths = torch.randint(1, 60, (4_000,), generator=torch.Generator().manual_seed(0))
    plan = BatchPlan.for_split(4_000, 32, lengths=lengths)
    steps = [lengths[plan.batches(step)[0]] for step in range(plan.steps_per_epoch)]
    padded = sum(32 * int(step.max()) for step in steps)
    assert padded < 1.1 * int(lengths.sum())
    halves = [torch.cat(half).float().mean() for half in (steps[:62], steps[62:])]
    assert abs(halves[0] - halves[1]) < 6


def test_an_epoch_is_sorted_by_length_once(monkeypatch):
    argsort, calls = torch.Tensor.argsort, []
    monkeypatch.setattr(
        torch.Tensor, "argsort", lambda self, **how: (calls.append(len(self)), argsort(self, **how))[1]
    )
    plan = BatchPlan.for_split(100, 10, lengths=torch.arange(100))
    for step in range(20):
        plan.batches(step)
    assert calls == [100, 100]


def test_epochs_and_seeds_differ_in_their_order():
    plan, other = (BatchPlan.for_split(50, 50, seed=seed) for seed in (0, 1))
    assert not torch.equal(draw_epoch(plan), draw_epoch(plan, epoch=1))
    assert not torch.equal(draw_epoch(plan), draw_epoch(other))


def test_a_step_of_accumulated_batches_is_as_many_batches():
    plan = BatchPlan.for_split(100, 8, accumulate=3)
    assert [len(batch) for batch in plan.batches(0)] == [8, 8, 8]
    assert plan.steps_per_epoch == 4
