"""`make bench-criteria`: every criterion at equal, exact sparsity on two real networks, before any recovery.

Per weight (unstructured): what scores single weights, under the global and the uniform allocation. Per unit
(filters of ResNet-20, neurons of MiniLM's feed-forward layers): all criteria, those that score whole outputs
too; single weights would only break their ties. The control is random, five seeds of it.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from benchmarks.criteria_runs import SEEDS, Run, Variant, prune_task
from benchmarks.criteria_table import print_tables, save_runs
from benchmarks.data_folder import NoBenchmarkData, find_data_folder
from benchmarks.minilm import minilm_task
from benchmarks.resnet20 import resnet20_task
from benchmarks.task import Task

OUTPUT = Path("bench-output")
_TASKS: Mapping[str, Callable[[Path], Task]] = {"resnet20": resnet20_task, "minilm": minilm_task}
_SPARSITIES = (0.5, 0.7)

_PER_WEIGHT = (
    Variant("magnitude"),
    Variant("gradient"),
    Variant("taylor", {"form": "per_sample"}),
    Variant("taylor", {"form": "batch"}),
    Variant("snip"),
    Variant("grasp"),
    Variant("fisher"),
    Variant("obd", {"probes": 8}),
    Variant("wanda", {"compare": "row"}),
    Variant("wanda", {"compare": "layer"}),
    Variant("sparsegpt"),
    Variant("synflow"),
)
_PER_UNIT = (
    *(variant for variant in _PER_WEIGHT if variant != Variant("wanda", {"compare": "row"})),
    Variant("activation", {"measure": "magnitude"}),
    Variant("activation", {"measure": "apoz"}),
    Variant("bn_scale"),
    Variant("fpgm"),
)
_RANDOM = tuple(Variant("random", seed=seed) for seed in SEEDS)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write the tables; returns the exit code, 2 when the data is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(_TASKS), default=list(_TASKS))
    chosen = parser.parse_args(arguments).models
    torch.set_num_threads(1)
    try:
        folder = find_data_folder()
        tasks = [_TASKS[name](folder) for name in chosen]
    except NoBenchmarkData as error:
        print(f"bench-criteria: {error}", file=sys.stderr)
        return 2
    runs: list[Run] = []
    for task in tasks:
        for run in _measure(task):
            runs.append(run)
            save_runs(runs, OUTPUT)  # each at once: what took an hour outlives an interruption
        print_tables(runs)
    return 0


def _measure(task: Task) -> Iterator[Run]:
    yield prune_task(task, None, pattern="none", allocation="none", sparsity=0.0)
    for sparsity in _SPARSITIES:
        for allocation in ("global", "uniform"):
            for variant in (*_RANDOM, *_PER_WEIGHT, *_only_under(allocation)):
                yield _run(task, variant, "unstructured", allocation, sparsity)
    for sparsity in task.units_sparsities:
        for variant in (*_RANDOM, *_PER_UNIT):
            if variant.criterion != "bn_scale" or task.has_batchnorm:
                yield _run(task, variant, task.units, "uniform", sparsity)


def _only_under(allocation: str) -> tuple[Variant, ...]:
    """SynFlow's hundred rounds share one budget; SparseGPT chooses within layers, so it needs theirs."""
    if allocation == "global":
        return (Variant("synflow", rounds=100),)
    return (Variant("sparsegpt", chooses_itself=True),)


def _run(task: Task, variant: Variant, pattern: str, allocation: str, sparsity: float) -> Run:
    run = prune_task(task, variant, pattern=pattern, allocation=allocation, sparsity=sparsity)
    print(
        f"{task.name}  {pattern} {sparsity:.0%} {allocation}  {variant.label}: {run.accuracy:.2%}  "
        f"({run.pruning_s:.1f} s to prune)",
        flush=True,
    )
    return run


if __name__ == "__main__":
    sys.exit(main())
