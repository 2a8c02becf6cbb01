"""Random scores depend on seeds and names alone."""

import torch

from worker.pruning.criteria.random import Random
from worker.pruning.statistics import LayerStatistics

WEIGHT = torch.ones(30, 40)


def test_layers_of_one_shape_get_different_scores():
    one, other = (Random().score(WEIGHT, LayerStatistics(name=name)) for name in ("a.weight", "b.weight"))
    assert not torch.equal(one, other)


def test_both_the_seed_of_the_run_and_the_parameter_change_the_scores():
    scores = [
        Random(seed=own).score(WEIGHT, LayerStatistics(name="a", seed=run))
        for own, run in [(0, 0), (0, 1), (1, 0)]
    ]
    assert not torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    assert not torch.equal(scores[1], scores[2])


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Random().score(WEIGHT, LayerStatistics(name="a"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Random().score(WEIGHT, LayerStatistics(name="a")), first)


def test_scores_are_spread_evenly_from_zero_to_one():
    # The mean of 1,200 uniform numbers has a standard error of 1 / sqrt(12 · 1200) = 0.0083.
    scores = Random().score(WEIGHT, LayerStatistics(name="a"))
    assert abs(scores.mean().item() - 0.5) < 5 * 0.0083
    assert scores.min() >= 0.0
    assert scores.max() < 1.0
