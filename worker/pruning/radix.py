"""Find the k-th lowest of many tensors by the bits of the values: exact, whatever their distribution."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.pruning.ranked import Chunk, Floats, Ranked

_DIGIT_BITS = 16
_DIGITS = 1 << _DIGIT_BITS


def find_value(ranked: Sequence[Ranked], count: int) -> float:
    """Return the `count`-th lowest value (from 1) of all tensors together; one pass for every 16 bits."""
    bits = 64 if any(one.dtype == np.float64 for one in ranked) else 32
    prefix = -(1 << (bits - 1))
    for shift in range(bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        histogram = np.zeros(_DIGITS, np.int64)
        for one in ranked:
            for chunk in one.chunks():
                digits = (_ordered_bits(_ranks(chunk), bits) >> shift) - (prefix >> shift)
                histogram += np.bincount(digits[(digits >= 0) & (digits < _DIGITS)], minlength=_DIGITS)
        reached = histogram.cumsum()
        digit = int(np.searchsorted(reached, count))
        count -= int(reached[digit]) - int(histogram[digit])
        prefix += digit << shift
    return _value(prefix, bits)


def _ranks(chunk: Chunk) -> Floats:
    if chunk.mask is None and chunk.protected is None:
        return chunk.values
    # What is ranked may be the caller's own memory.
    values = chunk.values.copy()
    if chunk.mask is not None:
        values[~chunk.mask] = -math.inf
    if chunk.protected is not None:
        values[chunk.protected] = math.inf
    return values


def _ordered_bits(values: Floats, bits: int) -> NDArray[np.int64]:
    """Map floats to integers of the same order; both zeros are one."""
    # Adding zero turns -0.0 into 0.0.
    if bits == 64:
        pattern = (values.astype(np.float64) + 0.0).view(np.int64)
        return np.where(pattern < 0, pattern ^ 0x7FFF_FFFF_FFFF_FFFF, pattern)
    pattern = (values + np.float32(0.0)).view(np.int32).astype(np.int64)
    return np.where(pattern < 0, pattern ^ 0x7FFF_FFFF, pattern)


def _value(key: int, bits: int) -> float:
    if bits == 64:
        return float(np.int64(key ^ 0x7FFF_FFFF_FFFF_FFFF if key < 0 else key).view(np.float64))
    return float(np.int32(key ^ 0x7FFF_FFFF if key < 0 else key).view(np.float32))
