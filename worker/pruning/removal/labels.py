"""Labels of channels: which of them must be cut together, found by uniting labels, and which must stay.

A label is an integer. It stands for one position along one axis of one tensor of the model; positions that an
operation forces to live and die together are united. FIXED (-1) marks what has no label: batch, time and
space, and what is computed from the inputs alone.
"""

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
FIXED = -1


class Labels:
    """A union-find over labels; the smallest of a class represents it, so that results do not vary."""

    def __init__(self) -> None:
        self._parents: Ids = np.empty(0, dtype=np.int64)
        self._count = 0
        self._kept: list[tuple[Ids, str]] = []
        self._together: list[Ids] = []

    def __len__(self) -> int:
        return self._count

    def draw(self, count: int) -> Ids:
        """Return new labels, int64 [count], each in a class of its own."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._parents):
            grown = np.arange(max(self._count, 2 * len(self._parents), 1024))
            grown[: len(self._parents)] = self._parents
            self._parents = grown
        return np.arange(first, self._count)

    def find(self, ids: Ids) -> Ids:
        """Return the representative of each label, of the same shape; FIXED stays FIXED."""
        roots = ids.copy()
        has_label = ids != FIXED
        found = ids[has_label]
        while not np.array_equal(above := self._parents[found], found):
            found = above
        roots[has_label] = found
        return roots

    def unite(self, one: Ids, other: Ids, reason: str) -> Ids:
        """Unite labels pairwise, of shapes that broadcast; return the labels of the result.

        A label that meets FIXED has to stay, for the `reason` given.
        """
        one, other = np.broadcast_arrays(self.find(one), self.find(other))
        met_fixed = (one == FIXED) != (other == FIXED)
        if met_fixed.any():
            self.keep(np.maximum(one, other)[met_fixed], reason)
        differing = (one != other) & ~met_fixed
        if differing.any():
            pairs = np.unique(np.stack([one[differing], other[differing]], axis=1), axis=0)
            for left, right in pairs.tolist():
                self._unite_two(left, right)
        return np.maximum(one, other)

    def unite_along(self, ids: Ids, axis: int) -> Ids:
        """Unite all labels along an axis, which has size 1 in what is returned."""
        first = np.take(ids, [0], axis=axis)
        if ids.shape[axis] > 1:
            self._together.append(self.unite(first, ids, "").reshape(-1))
        return first

    def keep(self, ids: Ids, reason: str) -> None:
        """Say that these labels have to stay, and why; of several reasons the first counts."""
        if (ids := ids[ids != FIXED]).size:
            self._kept.append((np.unique(ids), reason))

    def find_kept(self) -> dict[int, str]:
        """Return why classes have to stay, by representative."""
        reasons: dict[int, str] = {}
        for ids, reason in self._kept:
            for root in np.unique(self.find(ids)).tolist():
                reasons.setdefault(root, reason)
        return reasons

    def find_united_along(self) -> Ids:
        """Return the representatives of classes of neighbours along an axis, such as the rows of a head."""
        if not self._together:
            return np.empty(0, dtype=np.int64)
        return np.unique(self.find(np.concatenate(self._together)))

    def _unite_two(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        if one != other:
            self._parents[max(one, other)] = min(one, other)

    def _root(self, label: int) -> int:
        while (above := int(self._parents[label])) != label:
            label = above
        return label
