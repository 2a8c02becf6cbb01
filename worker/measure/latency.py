"""Measure how long inference takes, dense and pruned by turns, and say what the ratio comes from."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from app.core.report import LatencyResult, Milliseconds
from app.core.spec import Latency
from worker.measure.intervals import Interval, compute_speedup_interval
from worker.measure.model import MeasuredModel
from worker.models.inputs import Inputs, compute_logits, leaves
from worker.models.registry import Network

_WARMUP = 10
_FORWARD_BATCH, _FORWARD_MACS, _FORWARD_BYTES = 64, 2**35, 2**30


@dataclass(frozen=True)
class Timings:
    """Milliseconds of each run, [repeats] each, taken by turns: dense, pruned, pruned, dense, …"""

    dense_ms: npt.NDArray[np.float64]
    pruned_ms: npt.NDArray[np.float64]

    @property
    def speedup(self) -> float:
        return float(np.median(self.dense_ms) / np.median(self.pruned_ms))

    @property
    def speedup_ci95(self) -> Interval:
        return compute_speedup_interval(self.dense_ms, self.pruned_ms)


def measure_latency(
    dense: Network, pruned: Network, settings: Latency, *, counted: tuple[MeasuredModel, MeasuredModel]
) -> LatencyResult:
    """Time both networks as the spec asks; `counted` are their numbers, which explain the ratio."""
    device = torch.device(settings.device)
    batch = dense.inputs.blank(settings.batch_size, device)
    dense.module.to(device)
    pruned.module.to(device)
    timings = time_by_turns(dense.module, pruned.module, batch, repeats=settings.repeats)
    return LatencyResult(
        runtime=settings.runtime,
        device=settings.device,
        threads=torch.get_num_threads(),
        batch_size=settings.batch_size,
        repeats=settings.repeats,
        baseline_ms=_summarise(timings.dense_ms),
        final_ms=_summarise(timings.pruned_ms),
        speedup=timings.speedup,
        speedup_ci95=timings.speedup_ci95,
        why=explain(timings, before=counted[0], after=counted[1]),
    )


def time_by_turns(dense: nn.Module, pruned: nn.Module, batch: Inputs, *, repeats: int) -> Timings:
    """Time the forward pass of both models on a batch that lies on the models' device."""
    dense.eval()
    pruned.eval()
    with torch.inference_mode():
        for _ in range(_WARMUP):
            compute_logits(dense, batch)
            compute_logits(pruned, batch)
        _await(batch)
        times = np.array([_time_pair(dense, pruned, batch, is_swapped=i % 2 == 1) for i in range(repeats)])
    return Timings(times[:, 0], times[:, 1])


def measure_forward_ms(network: Network, *, counted: MeasuredModel) -> float:
    """Return the milliseconds of one sample in a batch, the best of three after a warm-up."""
    network.module.eval()
    batch_size = choose_forward_batch(counted.macs, counted.peak_inference_bytes - counted.weights_bytes)
    batch = network.inputs.blank(batch_size)
    with torch.inference_mode():
        compute_logits(network.module, batch)
        return min(_time_ms(network.module, batch) for _ in range(3)) / batch_size


def choose_forward_batch(macs: int, activation_bytes: int) -> int:
    """Return how many samples are timed at once, of so many products and bytes each: at most 64.

    Of images of 1,024 pixels a ResNet-50 multiplies for minutes and fills 19 GB with 64.
    """
    return max(
        1,
        min(
            _FORWARD_BATCH,
            _FORWARD_MACS // max(macs, 1),
            _FORWARD_BYTES // max(activation_bytes, 1),
        ),
    )


def measure_p50_ms(module: nn.Module, batch: Inputs, *, repeats: int) -> float:
    """Return the median milliseconds of the forward pass of one model on a batch on its device."""
    module.eval()
    with torch.inference_mode():
        for _ in range(_WARMUP):
            compute_logits(module, batch)
        _await(batch)
        return float(np.median([_time_ms(module, batch) for _ in range(repeats)]))


def explain(timings: Timings, *, before: MeasuredModel, after: MeasuredModel) -> str:
    """Say in a sentence why the pruned model is as fast as it is, from what was measured."""
    low, high = timings.speedup_ci95
    measured = f"Measured {timings.speedup:.2f} times the dense speed (95 % interval {low:.2f} to {high:.2f})"
    if after.macs < before.macs:
        share = 1 - after.macs / before.macs
        return f"{measured}: {share:.1%} of the multiply-accumulates are gone from the layers' shapes."
    cause = (
        f"{1 - after.nonzero / after.parameters:.1%} of the parameters are zero, but every layer keeps its "
        "shape, and dense kernels multiply by zeros as by any other number"
    )
    if low <= 1.0 <= high:
        return f"{measured}, which is no difference: {cause}."
    if 0.95 <= timings.speedup <= 1.05:
        return f"{measured}, a difference of the machine's noise and not of the model: {cause}."
    return f"{measured}, although {cause}; the difference comes from the machine, not from skipped work."


def _time_pair(
    dense: nn.Module, pruned: nn.Module, batch: Inputs, *, is_swapped: bool
) -> tuple[float, float]:
    # Whoever runs second finds the caches full of the first's weights, so the order alternates.
    if is_swapped:
        pruned_ms = _time_ms(pruned, batch)
        return _time_ms(dense, batch), pruned_ms
    return _time_ms(dense, batch), _time_ms(pruned, batch)


def _summarise(times_ms: npt.NDArray[np.float64]) -> Milliseconds:
    p50, p95 = np.percentile(times_ms, [50, 95])
    return Milliseconds(p50=float(p50), p95=float(p95))


def _time_ms(module: nn.Module, batch: Inputs) -> float:
    start = time.perf_counter()
    compute_logits(module, batch)
    _await(batch)
    return (time.perf_counter() - start) * 1e3


def _await(batch: Inputs) -> None:
    """Wait until a GPU, which takes its work into a line, has done what was asked of it."""
    if leaves(batch)[0].is_cuda:
        torch.cuda.synchronize()
