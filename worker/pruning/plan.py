"""What a recipe means for a model before anything is scored: plug-ins, units, refused layers, wishes."""

from dataclasses import dataclass
from typing import cast

from torch import nn

from worker.pruning.budget import merge_wishes
from worker.pruning.errors import NothingToPrune, UnsuitableScores
from worker.pruning.layers import Layer, find_layers
from worker.pruning.protocols import (
    Allocation,
    ChoosesInputs,
    CountsOnDensity,
    Criterion,
    Pattern,
    Schedule,
    ScoresOutputs,
    Unit,
)
from worker.pruning.recipe import Recipe
from worker.pruning.registry import build
from worker.pruning.rows import EXCLUDED, Wish, check_effect, read_rows


@dataclass(frozen=True)
class Plan:
    """`units` are sorted by name, `wishes` are what the rows ask of each of them."""

    criterion: Criterion
    pattern: Pattern
    allocation: Allocation
    schedule: Schedule
    layers: tuple[Layer, ...]
    units: tuple[Unit, ...]
    wishes: tuple[Wish, ...]

    @property
    def pruned_layers(self) -> tuple[Layer, ...]:
        return tuple(layer for unit in self.units for layer in unit.layers)


def make_plan(model: nn.Module, recipe: Recipe) -> Plan:
    """Read a recipe against a model; raises NothingToPrune, NoMatch and whatever else does not fit."""
    allocation = recipe.allocation
    criterion = cast(Criterion, build("criterion", recipe.criterion.name, recipe.criterion.params))
    pattern = cast(Pattern, build("pattern", recipe.pattern.name, recipe.pattern.params))
    if isinstance(criterion, ScoresOutputs) and isinstance(pattern, ChoosesInputs):
        raise UnsuitableScores(
            f"{recipe.criterion.name} scores a layer's outputs, and {recipe.pattern.name} chooses among the "
            "inputs of each, which all have one score: take a pattern of outputs (filter, neuron) or another "
            "criterion"
        )
    layers = find_layers(model)
    wishes = read_rows(recipe.layers, layers)
    layers = tuple(
        layer.refused(EXCLUDED) if layer.is_prunable and wishes[layer.name].is_excluded else layer
        for layer in layers
    )
    division = pattern.divide(model, [layer for layer in layers if layer.is_prunable])
    refused = {layer.name: layer for layer in division.refused}
    layers = tuple(refused.get(layer.name, layer) for layer in layers)
    if not division.units:
        raise NothingToPrune(f"no layer is left to prune by {recipe.pattern.name}: {_reasons(layers)}")
    check_effect(recipe.layers, layers)
    units = tuple(sorted(division.units, key=lambda unit: unit.name))
    return Plan(
        criterion=criterion,
        pattern=pattern,
        allocation=cast(Allocation, build("allocation", allocation.name, allocation.params)),
        schedule=_make_schedule(recipe),
        layers=layers,
        units=units,
        wishes=tuple(merge_wishes(unit, [wishes[layer.name] for layer in unit.layers]) for unit in units),
    )


def _make_schedule(recipe: Recipe) -> Schedule:
    schedule = cast(Schedule, build("schedule", recipe.schedule.name, recipe.schedule.params))
    target = recipe.target
    # Only a sparsity says beforehand how dense the model will be.
    if isinstance(schedule, CountsOnDensity) and target.metric == "sparsity" and 0.0 < target.value < 1.0:
        return schedule.aimed_at(1.0 - target.value)
    return schedule


def _reasons(layers: tuple[Layer, ...]) -> str:
    telling = [layer for layer in layers if not layer.name.endswith("bias")] or list(layers)
    return (
        "; ".join(f"{layer.name} {layer.why_not}" for layer in telling[:8]) or "the model has no parameters"
    )
