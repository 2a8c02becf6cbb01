"""Prune a number of weights from many units by one common ranking of their groups, each within its bounds."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worker.pruning.protocols import Bounds, Demand
from worker.pruning.ranked import Ranked, count_true
from worker.pruning.select import keep_highest


def rank_together(demand: Demand, ranked: Sequence[Ranked]) -> list[Tensor]:
    """Return the kept groups of each unit, bool [groups]: the lowest of all units together are pruned.

    `ranked` are the demand's scores, made comparable between units. When groups have different sizes, the
    number of pruned weights is the closest that a prefix of the ranking reaches.
    """
    bounded = [_force_low(one, bounds) for one, bounds in zip(ranked, demand.bounds, strict=True)]
    while True:
        kept = _prune_lowest(demand, bounded)
        over = [i for i, bounds in enumerate(demand.bounds) if _pruned(kept[i]) > bounds.high]
        if not over:
            return kept
        # A unit over its maximum stays there however much the others have to give in its stead.
        for i in over:
            bounded[i] = _force_high(bounded[i], demand.bounds[i])


def prune_each(demand: Demand, counts: Sequence[int]) -> list[Tensor]:
    """Return the kept groups of each unit, bool [groups]: its `counts` lowest are pruned."""
    return [keep_highest([one], count)[0].view(-1) for one, count in zip(demand.ranked, counts, strict=True)]


def _pruned(kept: Tensor) -> int:
    return kept.numel() - count_true(kept)


def _force_low(ranked: Ranked, bounds: Bounds) -> Ranked:
    if bounds.low <= ranked.pruned:
        return ranked
    return replace(ranked, mask=keep_highest([ranked], bounds.low)[0])


def _force_high(ranked: Ranked, bounds: Bounds) -> Ranked:
    return replace(ranked, protected=keep_highest([ranked], bounds.high)[0])


def _prune_lowest(demand: Demand, ranked: Sequence[Ranked]) -> list[Tensor]:
    sizes = {unit.group_size for unit in demand.units}
    if len(sizes) == 1:
        return [kept.view(-1) for kept in keep_highest(ranked, round(demand.weights / sizes.pop()))]
    return _prune_lowest_by_weight(demand, ranked)


def _prune_lowest_by_weight(demand: Demand, ranked: Sequence[Ranked]) -> list[Tensor]:
    values = torch.from_numpy(np.concatenate([one.at(np.arange(one.numel)) for one in ranked]))
    sizes = torch.cat([torch.full((unit.groups,), unit.group_size) for unit in demand.units])
    order = values.argsort(stable=True)
    order = order[values[order] < math.inf]
    reached = torch.cat([torch.zeros(1, dtype=torch.int64), sizes[order].cumsum(0)])
    count = int((reached - demand.weights).abs().argmin())
    kept = torch.ones(values.numel(), dtype=torch.bool)
    kept[order[:count]] = False
    return list(torch.split(kept, [unit.groups for unit in demand.units]))
