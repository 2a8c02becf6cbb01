"""What each round of a pruner reached, and its form in a saved state."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from worker.pruning.layers import Layer
from worker.pruning.ranked import count_true
from worker.pruning.rounds import Round

_PIECE = 1 << 18


@dataclass(frozen=True)
class Reached:
    """The sparsity, 0..1, after a round, and how many weights it dropped and grew."""

    round: Round
    sparsity: float
    dropped: int
    grown: int


def compare(
    round: Round, layers: Iterable[Layer], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> Reached:
    """Say what a round reached, from the masks before and after it; a layer without a mask is dense."""
    changes = [
        (layer.weight.numel(), *_count_changes(layer, before.get(layer.name), after.get(layer.name)))
        for layer in layers
    ]
    weights = sum(numel for numel, *_ in changes)
    pruned = sum(count for _, count, *_ in changes)
    return Reached(
        round=round,
        sparsity=pruned / weights if weights else 0.0,
        dropped=sum(dropped for *_, dropped, _ in changes),
        grown=sum(grown for *_, grown in changes),
    )


def as_json(history: Iterable[Reached]) -> list[dict[str, Any]]:  # Any: plain JSON
    """Return rows of plain JSON."""
    return [asdict(reached) for reached in history]


def from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[Reached, ...]:  # Any: what as_json returned
    """Undo `as_json`."""
    return tuple(Reached(**{**row, "round": Round(**row["round"])}) for row in rows)


def _count_changes(layer: Layer, before: Tensor | None, after: Tensor | None) -> tuple[int, int, int]:
    """Return how many weights of a layer are pruned now, were dropped and have grown.

    Nothing of the layer's size is made: at a billion weights a mask of ones alone is a gigabyte.
    """
    numel = layer.weight.numel()
    pruned = 0 if after is None else numel - count_true(after)
    if before is None or before is after:
        return pruned, pruned if before is None else 0, 0
    pruned_before = numel - count_true(before)
    if after is None:
        return 0, 0, pruned_before
    grown = _count_only(after, before)
    return pruned, pruned - pruned_before + grown, grown


def _count_only(one: Tensor, other: Tensor) -> int:
    """Count what is True in one and not in the other, a piece at a time."""
    flat, others = one.reshape(-1), other.reshape(-1)
    pieces = (slice(start, start + _PIECE) for start in range(0, len(flat), _PIECE))
    return sum(count_true(flat[piece] & ~others[piece]) for piece in pieces)
