"""Divide a number of weights to prune among units, in whole groups and within bounds, by one rising level.

Each unit gives its quota at that level, rounded to whole groups. With quotas in proportion to shares that is
Webster's divisor method. Asking for more never takes a group back from any unit, which the method of largest
remainders does.
"""

from collections.abc import Callable, Sequence

from worker.pruning.protocols import Bounds, Unit

Quotas = Callable[[float], Sequence[float]]
_HIGHEST_LEVEL = 2.0**64


def apportion(units: Sequence[Unit], quotas: Quotas, weights: int, bounds: Sequence[Bounds]) -> list[int]:
    """Return how many groups of each unit to prune, nearest to `weights` in all.

    `quotas(level)` are real numbers of weights by unit; none falls while the level rises from 0. When no
    level is enough, the units give what is missing one after another.
    """

    def counts_at(level: float) -> list[int]:
        return [
            min(max(int(max(quota, 0.0) / unit.group_size + 0.5), bound.low), bound.high)
            for unit, quota, bound in zip(units, quotas(level), bounds, strict=True)
        ]

    low, high = 0.0, 1.0
    while _pruned(units, counts_at(high)) < weights and high < _HIGHEST_LEVEL:
        high *= 2.0
    while low < (middle := (low + high) / 2.0) < high:
        low, high = (middle, high) if _pruned(units, counts_at(middle)) < weights else (low, middle)
    if _pruned(units, counts_at(high)) < weights:
        return _settle(units, counts_at(high), [bound.high for bound in bounds], weights)
    return _settle(units, counts_at(low), counts_at(high), weights)


def in_proportion(shares: Sequence[float]) -> Quotas:
    """Return quotas that are shares times the level, with shares up to a common factor."""
    total = sum(shares) or 1.0
    return lambda level: [level * share / total for share in shares]


def _pruned(units: Sequence[Unit], counts: Sequence[int]) -> int:
    return sum(count * unit.group_size for count, unit in zip(counts, units, strict=True))


def _settle(units: Sequence[Unit], counts: Sequence[int], ceiling: Sequence[int], weights: int) -> list[int]:
    """Raise the counts up to a ceiling, unit by unit, until the next group would not come nearer.

    It stops there, even if a smaller group of a later unit would fit: what goes for fewer weights has to go
    for more.
    """
    settled = list(counts)
    missing = weights - _pruned(units, counts)
    for i, unit in enumerate(units):
        # More than half of a group has to be missing to take one more.
        nearest = max(0, (2 * missing + unit.group_size - 1) // (2 * unit.group_size))
        more = min(ceiling[i] - settled[i], nearest)
        settled[i] += more
        missing -= more * unit.group_size
        if settled[i] < ceiling[i]:
            break
    return settled
