"""Choose the k lowest of many tensors, exactly, without bringing them together.

The order is total: by value, and among equal values by position (tensor by tensor as given, C order inside).
So the count is exact whatever the ties. A random sample brackets the k-th value; one pass over the data then
writes the masks, counts what lies below the bracket and keeps the few candidates inside, of which the right
number is taken. A heavily tied value is found by the sample as well and confirmed by counting. What neither
settles, a radix search over the bits of the values does.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.pruning.radix import find_value
from worker.pruning.ranked import CHUNK, Bools, Floats, Ranked, check_finite
from worker.pruning.select_on_device import MOST_ON_DEVICE, select_on_device

# Fewer values than this are simply sorted.
_FEW = 1 << 18
_MOST_SAMPLED = 1 << 18
_SAMPLED_FRACTION = 1 / 16
# A bracket of 5 standard deviations misses the k-th value once in two million selections.
_SIGMAS = 5.0
# A value that makes up this much of the sample is a tie to count, not candidates to collect.
_TIED_FRACTION = 0.005
_CANDIDATES_FRACTION = 0.04


@torch.no_grad()
def keep_highest(ranked: Sequence[Ranked], count: int) -> list[Tensor]:
    """Return one bool mask a tensor, False at exactly the `count` lowest values of all of them together.

    What is pruned already counts. Raises NonfiniteScores when a value is NaN or infinite, ValueError when
    `count` is less than is pruned already or more than may be.
    """
    already, most = sum(one.pruned for one in ranked), sum(one.prunable for one in ranked)
    if not already <= count <= most:
        raise ValueError(f"cannot prune {count} values: between {already} and {most} can be")
    if count in (already, most):
        for one in ranked:
            check_finite(one.values, one.name)
        return [_most_pruned(one) if count == most else _least_pruned(one) for one in ranked]
    # A model may lie on several devices, whose values are compared on the CPU.
    is_on_one = len({one.values.device for one in ranked}) == 1 and not ranked[0].is_on_cpu
    if is_on_one and sum(one.numel for one in ranked) <= MOST_ON_DEVICE:
        return select_on_device(ranked, count)
    masks = [np.empty(one.numel, np.bool_) for one in ranked]
    _settle(ranked, masks, count)
    return [
        torch.from_numpy(mask).reshape(one.values.shape).to(one.values.device)
        for one, mask in zip(ranked, masks, strict=True)
    ]


def _most_pruned(one: Ranked) -> Tensor:
    if one.protected is not None:
        return one.protected.clone()
    return torch.zeros_like(one.values, dtype=torch.bool, memory_format=torch.contiguous_format)


def _least_pruned(one: Ranked) -> Tensor:
    if one.mask is not None:
        return one.mask.clone()
    return torch.ones_like(one.values, dtype=torch.bool, memory_format=torch.contiguous_format)


def _settle(ranked: Sequence[Ranked], masks: Sequence[Bools], count: int) -> None:
    total = sum(one.numel for one in ranked)
    guess = _guess(ranked, count, total)
    if guess.tied is not None:
        counts = _count(ranked, guess.tied)
        if counts.below < count <= counts.below + counts.equal:
            _split_ties(ranked, masks, guess.tied, count - counts.below)
            return
    if not _settle_candidates(ranked, masks, guess, count):
        value = find_value(ranked, count)
        _split_ties(ranked, masks, value, count - _count(ranked, value).below)


class _Guess(NamedTuple):
    """The k-th value lies in low..high, and may be `tied`, a value that occurs very often."""

    low: float
    high: float
    tied: float | None


def _guess(ranked: Sequence[Ranked], count: int, total: int) -> _Guess:
    if total <= _FEW:
        return _Guess(-math.inf, math.inf, None)
    sample = _sample(ranked, total)
    rank = count / total * len(sample)
    spread = _SIGMAS * math.sqrt(rank * (1.0 - count / total)) + _SIGMAS
    first, last = math.floor(rank - spread), math.ceil(rank + spread)
    low = -math.inf if first < 0 else float(sample[first])
    high = math.inf if last >= len(sample) else float(sample[last])
    middle = float(sample[min(int(rank), len(sample) - 1)])
    if _is_tied(sample, low):
        low = float(np.nextafter(sample.dtype.type(low), sample.dtype.type(math.inf)))
    if _is_tied(sample, high):
        high = float(np.nextafter(sample.dtype.type(high), sample.dtype.type(-math.inf)))
    return _Guess(low, high, middle if _is_tied(sample, middle) else None)


def _sample(ranked: Sequence[Ranked], total: int) -> Floats:
    """Draw values at random, the same ones every time, from each tensor by its size; return them sorted."""
    random = np.random.default_rng(0)
    fraction = min(_SAMPLED_FRACTION, _MOST_SAMPLED / total)
    parts = []
    for one in ranked:
        # In order of memory, which the caches like better.
        chosen = np.sort(random.integers(max(1, one.numel), size=math.ceil(fraction * one.numel)))
        parts.append(one.at(chosen))
    return np.sort(np.concatenate(parts))


def _is_tied(sample: Floats, value: float) -> bool:
    if not math.isfinite(value):
        return False
    occurs = np.searchsorted(sample, value, side="right") - np.searchsorted(sample, value, side="left")
    return bool(occurs > _TIED_FRACTION * len(sample))


def _settle_candidates(ranked: Sequence[Ranked], masks: Sequence[Bools], guess: _Guess, count: int) -> bool:
    """Write the masks; return False when the guess was wrong or leaves too many candidates."""
    total = sum(one.numel for one in ranked)
    found = _Candidates(max(_FEW, int(total * _CANDIDATES_FRACTION)))
    buffer = np.empty(CHUNK, np.bool_)
    below = 0
    for i, (one, mask) in enumerate(zip(ranked, masks, strict=True)):
        for chunk in one.chunks():
            chunk.check_finite(one.name)
            kept = chunk.reach(guess.low, out=mask[chunk.where])
            below += len(kept) - int(np.count_nonzero(kept))
            inside = np.less_equal(chunk.values, chunk.values.dtype.type(guess.high), out=buffer[: len(kept)])
            np.logical_and(inside, kept, out=inside)
            positions = np.flatnonzero(chunk.limit(inside))
            if not found.add(i, positions + chunk.where.start, chunk.values[positions]):
                return False
    if not 0 <= count - below <= found.count:
        return False
    found.prune_lowest(masks, count - below)
    return True


class _Candidates:
    """Flat positions and values inside of the bracket, in the order of the ranking's positions."""

    def __init__(self, room: int) -> None:
        self.count = 0
        self._room = room
        self._owners: list[int] = []
        self._positions: list[NDArray[np.int64]] = []
        self._values: list[Floats] = []

    def add(self, owner: int, positions: NDArray[np.int64], values: Floats) -> bool:
        """Add the candidates of one piece of a tensor; return False when there is no room for them."""
        self.count += len(positions)
        self._owners.append(owner)
        self._positions.append(positions)
        self._values.append(values)
        return self.count <= self._room

    def prune_lowest(self, masks: Sequence[Bools], count: int) -> None:
        """Clear the masks at the `count` lowest, the first among equal ones."""
        if count == 0:
            return
        values = np.concatenate(self._values)
        threshold = np.partition(values, count - 1)[count - 1]
        lowest = values < threshold
        lowest[np.flatnonzero(values == threshold)[: count - int(np.count_nonzero(lowest))]] = True
        start = 0
        for owner, positions in zip(self._owners, self._positions, strict=True):
            masks[owner][positions[lowest[start : start + len(positions)]]] = False
            start += len(positions)


class _Counts(NamedTuple):
    below: int
    equal: int


def _count(ranked: Sequence[Ranked], value: float) -> _Counts:
    """Count what ranks below a value, and what equals it."""
    below = equal = 0
    buffer = np.empty(CHUNK, np.bool_)
    for one in ranked:
        for chunk in one.chunks():
            chunk.check_finite(one.name)
            out = buffer[: len(chunk.values)]
            below += len(out) - int(np.count_nonzero(chunk.reach(value, out=out)))
            equal += int(np.count_nonzero(chunk.limit(np.equal(chunk.values, value, out=out))))
    return _Counts(below, equal)


def _split_ties(ranked: Sequence[Ranked], masks: Sequence[Bools], value: float, ties: int) -> None:
    """Prune everything below a value, and the first `ties` that equal it."""
    for one, mask in zip(ranked, masks, strict=True):
        for chunk in one.chunks():
            kept = chunk.reach(value, out=mask[chunk.where])
            if ties:
                equal = np.flatnonzero(chunk.limit(chunk.values == value))[:ties]
                kept[equal] = False
                ties -= len(equal)
