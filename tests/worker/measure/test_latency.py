"""Timing two models by turns, and what is said about the result."""

import numpy as np
import pytest
import torch
from torch import nn

from app.core.spec import Latency
from worker.measure.latency import (
    Timings,
    choose_forward_batch,
    explain,
    measure_forward_ms,
    measure_latency,
    time_by_turns,
)
from worker.measure.macs import count_macs
from worker.measure.memory import measure_peak_bytes, sum_bytes
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
    assert measure_forward_ms(network, counted=measure_model(network)) > 0


@pytest.mark.parametrize("name", ["resnet-20", "resnet-50", "vgg-16-bn"])
def test_small_images_are_timed_64_at_once(name):
    assert choose_forward_batch(*count(name, image_size=32)) == 64


def test_large_images_are_timed_few_at_once_so_that_a_check_stays_within_its_time():
    macs, activation_bytes = count("resnet-50", image_size=1024)
    assert macs > 80e9
    assert choose_forward_batch(macs, activation_bytes) == 1
    assert choose_forward_batch(*count("resnet-50", image_size=224)) == 8


def test_samples_that_take_much_memory_are_timed_few_at_once():
    assert choose_forward_batch(1, 2**28) == 4
    assert choose_forward_batch(1, 2**40) == 1


def count(name: str, *, image_size: int) -> tuple[int, int]:
    """Return the products of one sample and the bytes that it takes besides the weights, counted on meta."""
    sizes = {} if name == "resnet-20" else {"image_size": image_size}
    with torch.device("meta"):
        network = build({"name": name, "params": sizes})
    sample = network.inputs.blank(1, "meta")
    assert isinstance(sample, torch.Tensor)
    assert sample.shape[2] == image_size
    weights = sum_bytes([*network.module.parameters(), *network.module.buffers()])
    macs = count_macs(network.module, sample).total
    return macs, measure_peak_bytes(network.module, sample) - weights
