"""What the rows and the pattern of a recipe let a model lose, by the rules that the pruning library keeps.

What cannot be is said when the job is submitted, rather than when it has waited for a worker.
"""

import math
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from app.core.errors import ErrorItem, SparsityUnreachable
from app.core.spec import Recipe
from app.services.layer_rows import Layer, Wish, find_matching, merge_rows

_UNSTRUCTURED = "unstructured"
_N_M = "n_m"
_CRITERIA_OF_OUTPUTS = ("activation", "bn_scale", "fpgm")
_PATTERNS_OF_INPUTS = ("channel", _N_M)
_LEARNED = ("movement", "movement_soft")
_PRUNE_FIRST = ("iterative", "rigl", "set")


def find_unsuitable_pattern(recipe: Recipe) -> list[ErrorItem]:
    """Find a pattern that chooses among the inputs of a layer by a criterion that scores its outputs."""
    criterion, pattern = recipe.criterion.name, recipe.pattern.name
    if criterion not in _CRITERIA_OF_OUTPUTS or pattern not in _PATTERNS_OF_INPUTS:
        return []
    detail = (
        f"{criterion} scores a layer's outputs, and {pattern} chooses among the inputs of each, which all "
        "have one score: take a pattern of outputs (filter, neuron) or another criterion"
    )
    return [ErrorItem(pointer="/recipe/pattern/name", code="unsuitable_pattern", detail=detail)]


def find_unsuitable_schedule(recipe: Recipe) -> list[ErrorItem]:
    """Find a schedule that prunes before the first step by scores that are learned in training."""
    criterion, schedule = recipe.criterion.name, recipe.schedule.name
    if criterion not in _LEARNED or not _prunes_first(schedule, recipe.schedule.params):
        return []
    detail = (
        f"{criterion} learns its scores in training, and {schedule} prunes before the first step: take a "
        "schedule that starts later, as cubic and lottery_ticket do, or another criterion"
    )
    return [ErrorItem(pointer="/recipe/schedule", code="unsuitable_schedule", detail=detail)]


def _prunes_first(schedule: str, params: Mapping[str, JsonValue]) -> bool:
    starts_at_once = params.get("start_fraction", 0.0) == 0.0
    if schedule == "one_shot":
        return starts_at_once
    return schedule in _PRUNE_FIRST or (starts_at_once and params.get("initial_fraction", 0.0) != 0.0)


def find_recipe_faults(recipe: Recipe, layers: Sequence[Layer]) -> list[ErrorItem]:
    """Find rows without effect, nothing left to prune, and a sparsity that no mask reaches."""
    items = _find_useless_rows(recipe, layers)
    pruned = [
        (layer["parameters"], wish)
        for layer in layers
        if layer["prunable"] and not (wish := merge_rows(recipe.layers, layer)).is_excluded
    ]
    if not pruned:
        can_be = any(layer["prunable"] for layer in layers)
        why = (
            "every layer that can be pruned is excluded"
            if can_be
            else "the model has none that can be pruned"
        )
        detail = f"no layer is left to prune: {why}"
        return [*items, ErrorItem(pointer="/recipe/layers", code="nothing_to_prune", detail=detail)]
    if recipe.target.metric != "sparsity":
        return items
    if recipe.pattern.name == _N_M:
        return items + _find_other_ratio(recipe, min(parameters for parameters, _ in pruned))
    if recipe.pattern.name == _UNSTRUCTURED:
        may_empty = recipe.target.value == 1.0 or bool(recipe.allocation.params.get("may_empty_layers"))
        return items + _find_unreachable(recipe.target.value, pruned, may_empty=may_empty)
    return items


def _find_useless_rows(recipe: Recipe, layers: Sequence[Layer]) -> list[ErrorItem]:
    items = []
    for i, row in enumerate(recipe.layers):
        matched = find_matching(row, layers)
        asks = (row.set.sparsity, row.set.min_sparsity, row.set.max_sparsity) != (None, None, None)
        if asks and matched and not any(layer["prunable"] for layer in matched):
            reasons = "; ".join(f"{layer['name']} {layer['why_not']}" for layer in matched[:3])
            detail = f"{row.match!r} matches only layers that cannot be pruned: {reasons}"
            items.append(
                ErrorItem(pointer=f"/recipe/layers/{i}/match", code="layer_not_prunable", detail=detail)
            )
    return items


def _find_other_ratio(recipe: Recipe, smallest: int) -> list[ErrorItem]:
    """Find a sparsity that is not the pattern's; counts are rounded by half a weight of each layer."""
    keep, of = (recipe.pattern.params.get(name) for name in ("keep", "of"))
    if not isinstance(keep, int) or not isinstance(of, int):
        return []
    if keep > of:
        detail = f"cannot keep {keep} of {of} weights: expected at most {of}"
        return [ErrorItem(pointer="/recipe/pattern/params/keep", code="keeps_more_than_all", detail=detail)]
    fixed, asked = 1.0 - keep / of, recipe.target.value
    if abs(asked - fixed) * smallest <= 0.5:
        return []
    detail = f"keeping {keep} of every {of} weights is a sparsity of {fixed:g}, found a target of {asked:g}"
    return [_unreachable(detail)]


def _find_unreachable(
    asked: float, pruned: Sequence[tuple[int, Wish]], *, may_empty: bool
) -> list[ErrorItem]:
    bounds = [_bound(parameters, wish, may_empty=may_empty) for parameters, wish in pruned]
    least, most = sum(low for low, _ in bounds), sum(high for _, high in bounds)
    total = sum(parameters for parameters, _ in pruned)
    # Layers of fixed sparsities are rounded one by one.
    slack = len(pruned) / 2 if least == most else 0.0
    if least - slack <= round(asked * total) <= most + slack:
        return []
    detail = (
        f"the rows let {least / total:.4g} to {most / total:.4g} of the {total:,} weights that can be pruned "
        f"go, found a target of {asked:g}"
    )
    return [_unreachable(detail)]


def _unreachable(detail: str) -> ErrorItem:
    return ErrorItem(pointer="/recipe/target/value", code=SparsityUnreachable.code, detail=detail)


def _bound(parameters: int, wish: Wish, *, may_empty: bool) -> tuple[int, int]:
    """Return how many weights of a layer must and may go; it keeps its last one unless it may be empty."""
    is_fixed = wish.fixed_sparsity is not None
    floor = wish.min_sparsity if wish.fixed_sparsity is None else wish.fixed_sparsity
    most = parameters if may_empty or floor == 1.0 else max(0, parameters - 1)
    low = min(round(floor * parameters), most)
    if is_fixed:
        return low, low
    # A hair more than the product, since 0.29 * 100 is 28.999…
    return low, max(low, min(math.floor(wish.max_sparsity * parameters + 1e-9), most))
