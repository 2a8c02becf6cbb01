"""One measurement of pruning in a process of its own: seconds, peak memory over what the weights take, masks.

`python -m benchmarks.select_runs JOB` reads a `Job` as JSON and prints a `Measurement` as JSON.
"""

import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.utils import prune as peer

from worker.pruning import prune
from worker.pruning.masks import pack

# Read after the clock has stopped.
Masks = Callable[[], list[Tensor]]

TENSORS = 8
SPARSITY = 0.7
RECIPE = {"allocation": {"name": "global"}, "target": {"metric": "sparsity", "value": SPARSITY}}


class Job(BaseModel):
    """What to measure: `read` sums the weights once, `ours` and `peer` prune them; masks go to `masks`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: Literal["read", "ours", "peer"]
    weights: int
    repeats: int = 1
    masks: Path | None = None
    profile: bool = False


class Measurement(BaseModel):
    """`seconds` of every repeat; `extra_bytes` is the peak of the first over what was resident before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: list[float]
    extra_bytes: int
    stages: dict[str, float]


def make_weights(weights: int) -> list[Tensor]:
    """Return normal float32 weights in eight matrices, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    columns = 1000
    rows = weights // TENSORS // columns
    return [torch.randn(rows, columns, generator=generator) for _ in range(TENSORS)]


def measure(job: Job) -> Measurement:
    """Run a job in this process: the peer with all threads, the others on one, as many as ours uses."""
    if job.what != "peer":
        torch.set_num_threads(1)
    _warm_up()
    seconds, extra_bytes, stages = [], 0, {}
    for repeat in range(job.repeats):
        model = _model(make_weights(job.weights))
        run = _runner(job, model)
        before = _resident("VmRSS")
        _forget_peak()
        profiler = cProfile.Profile() if job.profile and repeat == job.repeats - 1 else None
        start = time.perf_counter()
        kept = profiler.runcall(run) if profiler else run()
        seconds.append(time.perf_counter() - start)
        if repeat == 0:
            extra_bytes = max(0, _resident("VmHWM") - before)
            if job.masks is not None:
                job.masks.write_bytes(b"".join(pack(mask) for mask in kept()))
        if profiler:
            stages = _stages(profiler, seconds[-1])
        del model, run, kept
    return Measurement(seconds=seconds, extra_bytes=extra_bytes, stages=stages)


def _model(weights: list[Tensor]) -> nn.ModuleList:
    layers = nn.ModuleList()
    for weight in weights:
        layer = nn.Linear(1, 1, bias=False)
        layer.weight = nn.Parameter(weight)
        layers.append(layer)
    return layers


def _runner(job: Job, model: nn.ModuleList) -> Callable[[], Masks]:
    def read() -> Masks:
        for weight in model.parameters():
            weight.detach().sum().item()
        return list

    def ours() -> Masks:
        masks = prune(model, RECIPE)
        return lambda: list(masks.values())

    def torchs() -> Masks:
        tensors = [(layer, "weight") for layer in model]
        peer.global_unstructured(tensors, pruning_method=peer.L1Unstructured, amount=SPARSITY)
        return lambda: [layer.get_buffer("weight_mask").bool() for layer in model]

    return {"read": read, "ours": ours, "peer": torchs}[job.what]


def _warm_up() -> None:
    """Import what is imported at first use, and start torch's threads."""
    tiny = _model(make_weights(80_000))
    prune(tiny, RECIPE)
    peer.global_unstructured([(tiny[0], "weight")], pruning_method=peer.L1Unstructured, amount=0.5)


def _stages(profiler: cProfile.Profile, total: float) -> dict[str, float]:
    """Split the time by what the selection does with the weights; the rest is bookkeeping."""
    functions = pstats.Stats(profiler).get_stats_profile().func_profiles

    def inside(*names: str) -> float:
        return sum(functions[name].cumtime for name in names if name in functions)

    lowest = inside("prune_lowest")
    stages = {
        "bracket the threshold by a sample": inside("_guess"),
        "one pass: |w| and finite": inside("chunks", "check_finite"),
        "one pass: write the masks": inside("reach"),
        "choose among the candidates": lowest,
        "set pruned weights to zero": inside("zero_pruned"),
    }
    scan = inside("_settle_candidates") - lowest
    stages["one pass: find the candidates"] = (
        scan - lowest - sum(seconds for name, seconds in stages.items() if name.startswith("one pass"))
    )
    stages["everything else"] = total - sum(stages.values())
    return stages


def _resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Return resident bytes now (VmRSS) or at their peak (VmHWM), as Linux counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(measure(Job.model_validate_json(sys.argv[1])).model_dump_json())
