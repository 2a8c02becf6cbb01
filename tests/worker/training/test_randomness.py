"""Draws that depend on where a training stands, and on nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.training.randomness import derive_seed, seed_step

seeds, steps = st.integers(0, 2**63 - 1), st.integers(0, 10**9)


def draw(seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = seed_step(seed, step)
    return torch.rand(3), torch.rand(3, generator=generator)


@given(seeds, steps, steps)
def test_a_step_draws_the_same_whatever_was_drawn_before(seed, step, earlier):
    expected = draw(seed, step)
    draw(seed, earlier)
    assert all(torch.equal(*pair) for pair in zip(draw(seed, step), expected, strict=True))


@given(seeds, steps)
def test_seed_purpose_and_position_each_change_what_is_drawn(seed, step):
    derived = {
        derive_seed(seed, "order", step),
        derive_seed(seed + 1, "order", step),
        derive_seed(seed, "step", step),
        derive_seed(seed, "order", step + 1),
    }
    assert len(derived) == 4
    assert all(0 <= one < 2**63 for one in derived)


def test_dropout_and_augmentation_do_not_draw_the_same_numbers():
    one, other = draw(0, 0)
    assert not torch.equal(one, other)
