"""How much to prune: from a target and the wishes of the rows to bounds and a number of weights."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from worker.pruning.errors import ContradictoryRows, UnreachableTarget
from worker.pruning.protocols import Bounds, Demand, FixesSparsity, Pattern, Unit
from worker.pruning.ranked import count_true
from worker.pruning.rows import Wish
from worker.pruning.sizes import Size

Allocate = Callable[[Demand], list[Tensor]]


def unit_bounds(unit: Unit, wish: Wish, pattern: Pattern, *, may_empty: bool) -> Bounds:
    """Return how many groups of a unit must and may go in the end.

    Counts are rounded to the nearest, half to even. A layer keeps its last group unless it may be emptied or
    a row asks for a sparsity of 1.
    """
    if isinstance(pattern, FixesSparsity):
        count = round(pattern.fixed_sparsity * unit.groups)
        _check_fixed(unit, wish, pattern.fixed_sparsity)
        return Bounds(count, count)
    most = unit.groups if may_empty or wish.min_sparsity == 1.0 else max(0, unit.groups - 1)
    low = min(round(wish.min_sparsity * unit.groups), most)
    if wish.is_fixed:
        return Bounds(low, low)
    # A hair more than the product, since 0.29 * 100 is 28.999…
    return Bounds(low, max(low, min(math.floor(wish.max_sparsity * unit.groups + 1e-9), most)))


def merge_wishes(unit: Unit, wishes: Sequence[Wish]) -> Wish:
    """Return what the rows ask of a unit of several layers; raises ContradictoryRows where they disagree."""
    low = max(wish.min_sparsity for wish in wishes)
    high = min(wish.max_sparsity for wish in wishes)
    if low > high:
        names = ", ".join(layer.name for layer in unit.layers)
        raise ContradictoryRows(
            f"the rows ask at least {low:g} and at most {high:g} of {names}, which go together"
        )
    return Wish(min_sparsity=low, max_sparsity=high, is_fixed=low == high)


def scale_bounds(final: Bounds, fraction: float, already: int) -> Bounds:
    """Return the bounds when a fraction of the target is due and so many groups are pruned already."""
    low = max(round(fraction * final.low), already)
    high = round(fraction * final.high) if final.low == final.high else final.high
    return Bounds(low, max(low, high))


def least(units: Sequence[Unit], bounds: Sequence[Bounds]) -> int:
    """Return the fewest weights that the bounds let go."""
    return sum(unit.group_size * bound.low for unit, bound in zip(units, bounds, strict=True))


def most(units: Sequence[Unit], bounds: Sequence[Bounds]) -> int:
    """Return the most weights that the bounds let go."""
    return sum(unit.group_size * bound.high for unit, bound in zip(units, bounds, strict=True))


def weights_for_sparsity(demand: Demand, sparsity: float) -> int:
    """Return the number of weights to prune, the nearest to a sparsity, half to even.

    Raises UnreachableTarget when the bounds do not allow it.
    """
    total = sum(unit.numel for unit in demand.units)
    asked = round(sparsity * total)
    low, high = least(demand.units, demand.bounds), most(demand.units, demand.bounds)
    # Units of different bounds round one by one, so their sum may miss by half a group each.
    slack = sum(unit.group_size for unit in demand.units) / 2 if low == high else 0
    if low - slack <= asked <= high + slack:
        return min(max(asked, low), high)
    raise UnreachableTarget(
        "the pattern and the bounds of the layers do not allow it",
        metric="sparsity",
        asked=sparsity,
        nearest=min(max(asked, low), high) / total,
    )


def weights_for_size(demand: Demand, size: Size, value: float, allocate: Allocate) -> int:
    """Return the fewest weights to prune so that a size is at most `value`, as an allocation spreads them.

    Raises UnreachableTarget naming the smallest size when even that is too large.
    """

    def fits(weights: int) -> bool:
        return size.after(_pruned(allocate(replace(demand, weights=weights)))) <= value

    low, high = least(demand.units, demand.bounds), most(demand.units, demand.bounds)
    if fits(low):
        return low
    if not fits(high):
        smallest = size.after(_pruned(allocate(replace(demand, weights=high))))
        raise UnreachableTarget(
            "pruning all that may go is not enough", metric=size.metric, asked=value, nearest=smallest
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _pruned(kept: Sequence[Tensor]) -> list[int]:
    return [groups.numel() - count_true(groups) for groups in kept]


def _check_fixed(unit: Unit, wish: Wish, sparsity: float) -> None:
    if not wish.min_sparsity - 1e-9 <= sparsity <= wish.max_sparsity + 1e-9:
        asked = wish.min_sparsity if sparsity < wish.min_sparsity else wish.max_sparsity
        raise UnreachableTarget(
            f"the pattern prunes {sparsity:g} of {unit.name}, whatever its row asks",
            metric="sparsity",
            asked=asked,
            nearest=sparsity,
        )
