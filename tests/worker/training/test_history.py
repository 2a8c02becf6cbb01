"""The running means of what a training measured."""

import math

import pytest

from worker.training.history import RunningMeans


def smooth(name, values):
    means = RunningMeans(name)
    for value in values:
        means.add(0.0, value)
    return means.of_training()[f"train_{name}"]


def test_a_perplexity_is_smoothed_by_its_logarithm():
    # After 59 steps at 3.7 nats one at 12 weighs a twentieth of what it did, in nats.
    nats = 3.7 + (12 - 3.7) * 0.95**59
    assert smooth("perplexity", [math.exp(12), *[math.exp(3.7)] * 59]) == pytest.approx(math.exp(nats))


def test_other_metrics_are_smoothed_as_they_are():
    assert smooth("accuracy", [0.5, 1.0]) == pytest.approx(0.525)
