"""Timing two models by turns, and what is said about the result."""

import numpy as np
import pytest
import torch
from torch import nn

from app.core.spec import Latency
from worker.measure.latency import Timings, explain, measure_forward_ms, measure_latency, time_by_turns
from worker.measure.model import measure_model
from worker.models.registry import Network, build


class Recording(nn.Module):
    """Notes its name each time that it runs."""

    def __init__(self, name: str, runs: list[str]) -> None:
        super().__init__()
        self.name, self.runs = name, runs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs.append(self.name)
        return x


def test_dense_and_pruned_take_turns_and_each_is_first_half_of_the_time():
    runs: list[str] = []
    time_by_turns(Recording("dense", runs), Recording("pruned", runs), torch.zeros(1), repeats=10)
    measured = runs[-20:]
    pairs = [tuple(measured[i : i + 2]) for i in range(0, 20, 2)]
    assert pairs == [("dense", "pruned"), ("pruned", "dense")] * 5
    assert len(runs) > 20  # the warm-up is not measured


def measure_pair(zero_fraction: float = 0.0, classes: int = 10):
    """Count two LeNets, the second with zeros in its first layer or with fewer classes."""
    dense = build({"name": "lenet-300-100"})
    pruned = build({"name": "lenet-300-100", "params": {"classes": classes}})
    with torch.no_grad():
        weight = pruned.module.fc1.weight.view(-1)
        weight[: int(zero_fraction * len(weight))] = 0.0
    return measure_model(dense), measure_model(pruned)


def make_timings(ratio: float, noise: float = 0.01) -> Timings:
    draw = np.random.default_rng(0).normal
    return Timings(draw(1.0, noise, size=100), draw(1.0 / ratio, noise, size=100))


def test_zeros_that_bring_no_speed_are_said_to_bring_none():
    before, after = measure_pair(zero_fraction=0.9)
    why = explain(make_timings(1.0), before=before, after=after)
    assert "no difference" in why
    assert f"{1 - after.nonzero / after.parameters:.1%} of the parameters are zero" in why


def test_removed_work_is_named_as_the_cause():
    before, after = measure_pair(classes=2)
    why = explain(make_timings(1.5), before=before, after=after)
    share = 1 - after.macs / before.macs
    assert f"{share:.1%} of the multiply-accumulates are gone" in why
    assert "1.5" in why


@pytest.mark.parametrize("ratio", [0.8, 1.3])
def test_a_difference_that_zeros_cannot_make_is_not_credited_to_them(ratio):
    before, after = measure_pair(zero_fraction=0.5)
    why = explain(make_timings(ratio), before=before, after=after)
    assert "not from skipped work" in why


def test_a_small_but_significant_difference_is_called_noise():
    before, after = measure_pair(zero_fraction=0.5)
    assert "noise" in explain(make_timings(1.03, noise=0.001), before=before, after=after)


def test_the_result_says_how_it_was_measured():
    dense, pruned = build({"name": "lenet-300-100"}), build({"name": "lenet-300-100"})
    result = measure_latency(
        dense,
        pruned,
        Latency(batch_size=2, repeats=20),
        counted=(measure_model(dense), measure_model(pruned)),
    )
    assert (result.device, result.batch_size, result.repeats) == ("cpu", 2, 20)
    assert result.threads == torch.get_num_threads()
    assert 0 < result.baseline_ms.p50 <= result.baseline_ms.p95
    assert result.speedup_ci95[0] <= result.speedup <= result.speedup_ci95[1]


def test_one_sample_of_a_batch_takes_some_time():
    network: Network = build({"name": "lenet-300-100"})
    assert measure_forward_ms(network) > 0
