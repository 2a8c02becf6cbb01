"""What the ordered layer rows of a recipe ask of each layer, by the rules that the pruning library keeps.

A glob matches a parameter's name (`fc1.weight`) or its module's (`fc1`); later rows win.
"""

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.core.errors import ErrorItem
from app.core.spec import LayerRow

Layer = dict[str, Any]  # Any: a ModelLayer of the deep check, as JSON


@dataclass(frozen=True)
class Wish:
    """What the rows ask of one layer, all of them merged."""

    is_excluded: bool = False
    fixed_sparsity: float | None = None
    min_sparsity: float = 0.0
    max_sparsity: float = 1.0


def find_row_faults(
    rows: Sequence[LayerRow], layers: Sequence[Layer], *, at: str = "/recipe/layers"
) -> list[ErrorItem]:
    """Find globs that match no layer, naming the closest names."""
    names = [name for layer in layers for name in _names(layer)]
    items = []
    for i, row in enumerate(rows):
        if any(fnmatch.fnmatchcase(name, row.match) for name in names):
            continue
        close = difflib.get_close_matches(row.match, names, n=3, cutoff=0.0)
        detail = f"{row.match!r} matches no layer; the closest names are: {', '.join(close)}"
        items.append(ErrorItem(pointer=f"{at}/{i}/match", code="no_layer_matches", detail=detail))
    return items


def merge_rows(rows: Sequence[LayerRow], layer: Layer) -> Wish:
    """Merge all rows that match one layer that can be pruned."""
    wish = Wish()
    for row in rows:
        if any(fnmatch.fnmatchcase(name, row.match) for name in _names(layer)):
            wish = _merge(wish, row)
    return wish


def _names(layer: Layer) -> tuple[str, ...]:
    name: str = layer["name"]
    module = name.rpartition(".")[0]
    return (name, module) if module else (name,)


def _merge(wish: Wish, row: LayerRow) -> Wish:
    setting = row.set
    if (
        setting.exclude is not None
        and setting.sparsity is setting.min_sparsity is setting.max_sparsity is None
    ):
        return Wish(is_excluded=setting.exclude)
    if setting.sparsity is not None:
        return Wish(fixed_sparsity=setting.sparsity)
    before = Wish() if wish.is_excluded or wish.fixed_sparsity is not None else wish
    low = before.min_sparsity if setting.min_sparsity is None else setting.min_sparsity
    high = before.max_sparsity if setting.max_sparsity is None else setting.max_sparsity
    return replace(before, min_sparsity=low, max_sparsity=high)
