"""Select by one sort where the values lie: a GPU sorts them sooner than it copies them out piece by piece."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from worker.pruning.ranked import Ranked, check_finite

# Sorting takes up to 32 bytes a value, 4 GiB for so many.
MOST_ON_DEVICE = 1 << 27


def select_on_device(ranked: Sequence[Ranked], count: int) -> list[Tensor]:
    """Return bool masks, False at the `count` lowest values of all tensors, which lie on one device.

    `count` is more than is pruned already and less than may be. Of equal values the first ones go, as they do
    on the CPU. Raises NonfiniteScores.
    """
    for one in ranked:
        check_finite(one.values, one.name)
    values = torch.cat([_rank(one) for one in ranked])
    # Of the sorted values alone: which of two equal ones came first is not asked.
    threshold = values.sort().values[count - 1]
    kept = values >= threshold
    ties = count - (kept.numel() - int(kept.count_nonzero()))
    kept[(values == threshold).nonzero().view(-1)[:ties]] = False
    parts = torch.split(kept, [one.numel for one in ranked])
    return [part.clone().reshape(one.values.shape) for part, one in zip(parts, ranked, strict=True)]


def _rank(one: Ranked) -> Tensor:
    """Return the values as they rank, flat: float32, or float64 where they are."""
    values = one.values.detach().reshape(-1)
    values = values if values.dtype == torch.float64 else values.float()
    values = values.abs() if one.absolute else values
    values = values * one.scale if one.scale != 1.0 else values
    if one.mask is not None:
        values = values.masked_fill(~one.mask.reshape(-1), -math.inf)
    if one.protected is not None:
        values = values.masked_fill(one.protected.reshape(-1), math.inf)
    return values
