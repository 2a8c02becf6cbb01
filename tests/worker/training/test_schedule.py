"""Learning rates."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.finetune import Finetune
from worker.training.schedule import compute_rate

runs = st.tuples(st.integers(1, 500), st.floats(0.0, 1.0))
decays = st.sampled_from(["cosine", "linear", "constant"])


@given(runs, decays)
def test_the_rate_is_above_zero_and_at_most_the_one_asked_for(run, decay):
    total, warmup = run
    settings = Finetune(epochs=1, learning_rate=0.1, warmup_fraction=warmup, decay=decay)
    rates = [compute_rate(step, total, settings) for step in range(total)]
    assert all(0 < rate <= 0.1 for rate in rates)
    assert max(rates) == pytest.approx(0.1)


@given(runs, decays)
def test_the_rate_rises_while_warming_up_and_never_after(run, decay):
    total, warmup = run
    settings = Finetune(epochs=1, learning_rate=0.1, warmup_fraction=warmup, decay=decay)
    rates = [compute_rate(step, total, settings) for step in range(total)]
    top = round(warmup * total)
    assert all(a < b for a, b in pairwise(rates[:top]))
    assert all(a >= b for a, b in pairwise(rates[top:]))


def test_the_rate_follows_half_a_cosine_after_ten_steps_of_warm_up():
    settings = Finetune(epochs=1, learning_rate=1.0, warmup_fraction=0.1)
    assert compute_rate(4, 100, settings) == pytest.approx(0.5)
    assert compute_rate(55, 100, settings) == pytest.approx(0.5)  # half of the 90 steps left
    assert compute_rate(70, 100, settings) == pytest.approx(0.5 * (1 + math.cos(math.pi * 60 / 90)))


def test_a_linear_decay_is_halfway_down_after_half_of_the_steps_left():
    settings = Finetune(epochs=1, learning_rate=1.0, warmup_fraction=0.1, decay="linear")
    assert compute_rate(55, 100, settings) == pytest.approx(0.5)
    assert compute_rate(99, 100, settings) == pytest.approx(1 / 90)


def test_a_constant_rate_stays():
    settings = Finetune(epochs=1, learning_rate=1.0, warmup_fraction=0.1, decay="constant")
    assert {compute_rate(step, 100, settings) for step in range(10, 100)} == {1.0}
