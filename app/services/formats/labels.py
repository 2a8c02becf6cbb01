"""What the check of a split finds: how many samples, of which form, with which labels."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from app.core.rows import MAX_CLASSES


@dataclass(frozen=True)
class LabelRange:
    """The labels of a split; `classes` is None when they do not look like 0..k-1, each more than once."""

    low: int | float
    high: int | float
    classes: int | None


@dataclass(frozen=True)
class SplitFacts:
    """`n` samples; of images `shape` as in the file (without n) and `dtype`. None is for a worker to find."""

    n: int | None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    labels: LabelRange | None = None


class LabelCounter:
    """Follows the labels of a split piece by piece, in a bounded amount of memory."""

    def __init__(self, *, are_classes: bool) -> None:
        self._low: int | float | None = None
        self._high: int | float = 0
        self._counts: Counter[int | float] | None = Counter() if are_classes else None

    def add(self, labels: Iterable[int | float]) -> None:
        """Take the next labels, at least one."""
        given = list(labels)
        low, high = min(given), max(given)
        self._low, self._high = (
            (low, high) if self._low is None else (min(self._low, low), max(self._high, high))
        )
        if self._counts is not None:
            self._counts.update(given)
            if len(self._counts) > MAX_CLASSES:
                self._counts = None

    def range(self) -> LabelRange | None:
        """Return what was seen; None when there was nothing."""
        return None if self._low is None else LabelRange(self._low, self._high, self._count_classes())

    def _count_classes(self) -> int | None:
        """Return k when the labels are 0..k-1 and each occurs more than once: then no label is a slip."""
        counts = self._counts
        if not counts or len(counts) != self._high + 1 or min(counts.values()) < 2:
            return None
        return len(counts)
