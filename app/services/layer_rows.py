"""What the ordered layer rows of a recipe ask of each layer, by the rules that the pruning library keeps.

A glob matches a parameter's name (`fc1.weight`), any other name of it, or its module's (`fc1`); later rows
win.
"""

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from app.core.errors import ErrorItem
from app.core.spec import LayerRow
from app.services.strict_json import MAX_FAULTS

CONTRADICTORY = "contradictory_rows"
# To compare one glob with the names of 384 parameters takes 0.1 s, in which no one else can write to SQLite.
_WITH_CLOSE_NAMES = 5
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
    """Find the first MAX_FAULTS globs that match no layer, naming the closest names for the first few."""
    names = list(dict.fromkeys(name for layer in layers for name in _names(layer)))
    wrong = ((i, row.match) for i, row in enumerate(rows) if not find_matching(row, layers))
    items: list[ErrorItem] = []
    for i, match in islice(wrong, MAX_FAULTS):
        detail = f"{match!r} matches no layer"
        if len(items) < _WITH_CLOSE_NAMES:
            close = difflib.get_close_matches(match, names, n=3, cutoff=0.0)
            detail += f"; the closest names are: {', '.join(close)}"
        items.append(ErrorItem(pointer=f"{at}/{i}/match", code="no_layer_matches", detail=detail))
    return items


def find_contradictions(
    rows: Sequence[LayerRow], layers: Sequence[Layer], *, at: str = "/recipe/layers"
) -> list[ErrorItem]:
    """Find rows that take back what rows before them ask, one fault a row at most."""
    details: dict[int, str] = {}
    excluded: dict[str, bool] = {}
    for i, row in enumerate(rows):
        now = bool(row.set.exclude)
        if excluded.setdefault(row.match, now) != now:
            details[i] = f"two rows match {row.match!r}: one excludes it, the other prunes it"
    for layer in (layer for layer in layers if layer["prunable"]):
        wish = Wish()
        for i, row in enumerate(rows):
            wish = _merge(wish, row) if _matches(row, layer) else wish
            if wish.min_sparsity > wish.max_sparsity:
                asked = f"at least {wish.min_sparsity:g} and at most {wish.max_sparsity:g}"
                details.setdefault(i, f"the rows up to this one ask {asked} of {layer['name']}")
                break
    return [
        ErrorItem(pointer=f"{at}/{i}", code=CONTRADICTORY, detail=detail)
        for i, detail in sorted(details.items())
    ]


def find_matching(row: LayerRow, layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers that a row speaks of."""
    return [layer for layer in layers if _matches(row, layer)]


def merge_rows(rows: Sequence[LayerRow], layer: Layer) -> Wish:
    """Merge all rows that match one layer that can be pruned."""
    wish = Wish()
    for row in rows:
        if _matches(row, layer):
            wish = _merge(wish, row)
    return wish


def _matches(row: LayerRow, layer: Layer) -> bool:
    return any(fnmatch.fnmatchcase(name, row.match) for name in _names(layer))


def _names(layer: Layer) -> tuple[str, ...]:
    # Another name of a tied tensor counts too: of GPT-2's embedding it is lm_head.
    names = (layer["name"], *layer.get("aliases", ()))
    return tuple(found for name in names for found in (name, name.rpartition(".")[0]) if found)


def _merge(wish: Wish, row: LayerRow) -> Wish:
    setting = row.set
    if (
        setting.exclude is not None
        and setting.sparsity is setting.min_sparsity is setting.max_sparsity is None
    ):
        return Wish(is_excluded=True) if setting.exclude else replace(wish, is_excluded=False)
    if setting.sparsity is not None:
        return Wish(fixed_sparsity=setting.sparsity)
    before = Wish() if wish.is_excluded or wish.fixed_sparsity is not None else wish
    low = before.min_sparsity if setting.min_sparsity is None else setting.min_sparsity
    high = before.max_sparsity if setting.max_sparsity is None else setting.max_sparsity
    return replace(before, min_sparsity=low, max_sparsity=high)
