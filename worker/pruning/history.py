"""What each round of a pruner reached, and its form in a saved state."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from worker.pruning.masks import MaskSet
from worker.pruning.ranked import count_true
from worker.pruning.rounds import Round


@dataclass(frozen=True)
class Reached:
    """The sparsity, 0..1, after a round, and how many weights it dropped and grew."""

    round: Round
    sparsity: float
    dropped: int
    grown: int


def compare(round: Round, before: MaskSet, after: MaskSet) -> Reached:
    """Say what a round reached, from the masks before and after it."""
    return Reached(
        round=round,
        sparsity=after.sparsity,
        dropped=sum(_only(before[name], mask) for name, mask in after.items()),
        grown=sum(_only(mask, before[name]) for name, mask in after.items()),
    )


def as_json(history: Iterable[Reached]) -> list[dict[str, Any]]:  # Any: plain JSON
    """Return rows of plain JSON."""
    return [asdict(reached) for reached in history]


def from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[Reached, ...]:  # Any: what as_json returned
    """Undo `as_json`."""
    return tuple(Reached(**{**row, "round": Round(**row["round"])}) for row in rows)


def _only(one: Tensor, other: Tensor) -> int:
    return count_true(one & ~other)
