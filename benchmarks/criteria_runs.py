"""One run of the criteria benchmark: load the dense network, prune it once, test it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pydantic import JsonValue
from torch import nn

from benchmarks.task import Task
from worker.pruning import MaskSet, Pruner, prune
from worker.pruning.criteria.sparsegpt import SparseGPT
from worker.pruning.statistics import Calibration, gather

SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Variant:
    """A criterion with its parameters; in several rounds, or choosing by itself while it updates weights."""

    criterion: str
    params: Mapping[str, JsonValue] = field(default_factory=dict)
    seed: int = 0
    rounds: int = 1
    chooses_itself: bool = False

    @property
    def label(self) -> str:
        extras = [str(value) for value in self.params.values() if isinstance(value, str)]
        if self.rounds > 1:
            extras.append(f"{self.rounds} rounds")
        if self.chooses_itself:
            extras.append("algorithm 1")
        return " ".join([self.criterion, *extras])


@dataclass(frozen=True)
class Run:
    """What came out; `pruned` of `prunable` weights are gone, `pruning_s` includes gathering statistics."""

    task: str
    pattern: str
    allocation: str
    sparsity: float
    criterion: str
    label: str
    seed: int
    pruned: int
    prunable: int
    accuracy: float
    pruning_s: float


def prune_task(task: Task, variant: Variant | None, *, pattern: str, allocation: str, sparsity: float) -> Run:
    """Prune the task's network as a variant says, and test it; without a variant test it dense."""
    model = task.load()
    started = time.perf_counter()
    pruned = prunable = 0
    if variant is not None:
        recipe = _recipe(task, variant, pattern, allocation, sparsity)
        masks = _prune(task, variant, recipe, model)
        prunable = sum(mask.numel() for mask in masks.values())
        pruned = prunable - sum(int(mask.sum()) for mask in masks.values())
    elapsed_s = time.perf_counter() - started
    return Run(
        task=task.name,
        pattern=pattern,
        allocation=allocation,
        sparsity=sparsity,
        criterion="dense" if variant is None else variant.criterion,
        label="dense" if variant is None else variant.label,
        seed=0 if variant is None else variant.seed,
        pruned=pruned,
        prunable=prunable,
        accuracy=task.accuracy(model),
        pruning_s=elapsed_s,
    )


def _recipe(
    task: Task, variant: Variant, pattern: str, allocation: str, sparsity: float
) -> dict[str, JsonValue]:
    excluded = task.units_excluded if pattern == task.units else task.excluded
    schedule: dict[str, JsonValue] = {"name": "one_shot"}
    if variant.rounds > 1:
        schedule = {"name": "exponential", "params": {"final_density": 1 - sparsity}}
    return {
        "criterion": {"name": variant.criterion, "params": dict(variant.params)},
        "pattern": {"name": pattern},
        "allocation": {"name": allocation},
        "target": {"metric": "sparsity", "value": sparsity},
        "schedule": schedule,
        "layers": [{"match": glob, "set": {"exclude": True}} for glob in excluded],
    }


def _prune(task: Task, variant: Variant, recipe: dict[str, JsonValue], model: nn.Module) -> MaskSet:
    if variant.chooses_itself:
        return _prune_by_algorithm_1(task, recipe, model)
    if variant.rounds == 1:
        return prune(model, recipe, task.calibration, seed=variant.seed)
    pruner = Pruner(model, recipe, task.calibration, seed=variant.seed)
    for done in range(1, variant.rounds + 1):
        pruner.update(done / variant.rounds)
    return pruner.masks


@torch.no_grad()
def _prune_by_algorithm_1(task: Task, recipe: dict[str, JsonValue], model: nn.Module) -> MaskSet:
    """Let SparseGPT choose as published: in each layer as many weights as the allocation gives it."""
    counted = prune(task.load(), recipe | {"criterion": {"name": "magnitude"}})
    criterion = SparseGPT()
    calibration = Calibration(task.calibration)
    found = gather(model, list(counted), criterion=criterion, calibration=calibration)
    masks = {}
    for name, like in counted.items():
        weight = model.get_parameter(name)
        updated, masks[name] = criterion.prune_count(weight, found[name], count=int((~like).sum()))
        weight.copy_(updated)
    return MaskSet(masks)
