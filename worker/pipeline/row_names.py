"""Rows of a recipe, which name layers of the uploaded model, in the names that a cut model has for them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from app.core.spec import LayerRow
from worker.pruning.layers import Layer
from worker.pruning.removal.surgery import Removal
from worker.pruning.rows import find_matching


def follow_blocks(
    rows: Sequence[LayerRow], layers: Sequence[Layer], removal: Removal | None
) -> tuple[LayerRow, ...]:
    """Return rows that say of the `layers` of a cut model what the rows given say of the uploaded one.

    Blocks behind one that is gone have other numbers, so that a glob of numbers becomes a row for each layer;
    one that speaks of nothing that is left is dropped.
    """
    if removal is None or not removal.depths:
        return tuple(rows)
    originals = [_name_as_before(layer, removal) for layer in layers]
    return tuple(renamed for row in rows for renamed in _follow(row, layers, originals))


def _follow(row: LayerRow, layers: Sequence[Layer], originals: Sequence[Layer]) -> Iterator[LayerRow]:
    meant = {before.name for before in find_matching(row.match, originals)}
    followed = [layer for layer, before in zip(layers, originals, strict=True) if before.name in meant]
    if followed == list(find_matching(row.match, layers)):
        yield from [row] if followed else []
        return
    # Of what is not prunable a row says nothing, and may not ask anything by itself.
    yield from (row.model_copy(update={"match": layer.name}) for layer in followed if layer.is_prunable)


def _name_as_before(layer: Layer, removal: Removal) -> Layer:
    return replace(
        layer,
        name=removal.original(layer.name),
        module_name=removal.original(layer.module_name),
        aliases=tuple(map(removal.original, layer.aliases)),
    )
