"""The ordered rows of a recipe: what each asks of the layers whose name matches its glob."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace

from worker.pruning.errors import ContradictoryRows, NoMatch, UnsuitableLayer
from worker.pruning.layers import Layer
from worker.pruning.recipe import LayerRow

EXCLUDED = "is excluded by the recipe"


@dataclass(frozen=True)
class Wish:
    """What the rows ask of one layer, all of them merged; a fixed sparsity is a minimum and a maximum."""

    is_excluded: bool = False
    min_sparsity: float = 0.0
    max_sparsity: float = 1.0
    is_fixed: bool = False


def read_rows(rows: Sequence[LayerRow], layers: Sequence[Layer]) -> dict[str, Wish]:
    """Return what the rows ask of each layer by name; where two rows speak of one thing, the later wins.

    A glob matches the name of the parameter (`fc1.weight`), any alias of it, or of its module (`fc1`).
    Raises NoMatch for a glob that matches nothing, and ContradictoryRows.
    """
    wishes = {layer.name: Wish() for layer in layers}
    _check_repeated(rows)
    for row in rows:
        matched = [layer for layer in layers if _matches(row.match, layer)]
        if not matched:
            raise NoMatch(row.match, [name for layer in layers for name in _names(layer)])
        for layer in (layer for layer in matched if layer.is_prunable):
            wishes[layer.name] = _merge(wishes[layer.name], row, layer)
    return wishes


def find_matching(glob: str, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers that a row with this glob speaks of."""
    return tuple(layer for layer in layers if _matches(glob, layer))


def check_effect(rows: Sequence[LayerRow], layers: Sequence[Layer]) -> None:
    """Raise UnsuitableLayer where a row asks for a sparsity of layers that cannot be pruned."""
    for row in rows:
        matched = [layer for layer in layers if _matches(row.match, layer)]
        asks = (row.set.sparsity, row.set.min_sparsity, row.set.max_sparsity) != (None, None, None)
        if asks and all(layer.why_not not in (None, EXCLUDED) for layer in matched):
            reasons = "; ".join(f"{layer.name} {layer.why_not}" for layer in matched[:3])
            raise UnsuitableLayer(f"{row.match!r} matches only layers that cannot be pruned: {reasons}")


def _names(layer: Layer) -> tuple[str, ...]:
    aliases = [name for alias in layer.aliases for name in (alias, alias.rpartition(".")[0])]
    return tuple(name for name in (layer.name, layer.module_name, *aliases) if name)


def _matches(glob: str, layer: Layer) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for name in _names(layer))


def _merge(wish: Wish, row: LayerRow, layer: Layer) -> Wish:
    setting = row.set
    if (
        setting.exclude is not None
        and setting.min_sparsity is setting.max_sparsity is setting.sparsity is None
    ):
        return Wish(is_excluded=True) if setting.exclude else replace(wish, is_excluded=False)
    if setting.sparsity is not None:
        return Wish(min_sparsity=setting.sparsity, max_sparsity=setting.sparsity, is_fixed=True)
    before = Wish() if wish.is_fixed or wish.is_excluded else wish
    low = before.min_sparsity if setting.min_sparsity is None else setting.min_sparsity
    high = before.max_sparsity if setting.max_sparsity is None else setting.max_sparsity
    if low > high:
        raise ContradictoryRows(
            f"the rows ask at least {low:g} and at most {high:g} of {layer.name}; the last is {row.match!r}"
        )
    return Wish(min_sparsity=low, max_sparsity=high)


def _check_repeated(rows: Sequence[LayerRow]) -> None:
    excluded: dict[str, bool] = {}
    for row in rows:
        now = bool(row.set.exclude)
        if excluded.setdefault(row.match, now) != now:
            raise ContradictoryRows(f"two rows match {row.match!r}: one excludes it, the other prunes it")
