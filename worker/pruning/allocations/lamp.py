"""The LAMP allocation: one ranking over all layers, each score relative to the larger ones of its layer.

Lee et al. 2021, arXiv:2010.07611, equation 4: score(u) = W[u]² / sum of W[v]² over all v that rank at or
above u in the same tensor. The largest weight of every layer scores 1. Here W is the score of any criterion
that is not negative, |w| for magnitude with p = 1, and of groups as of single weights.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worker.pruning.errors import UnsuitableScores
from worker.pruning.protocols import Demand
from worker.pruning.ranked import Ranked
from worker.pruning.ranking import rank_together
from worker.pruning.registry import Plugin, register


@register("allocation", "lamp", source="Lee et al. 2021, arXiv:2010.07611, equation 4")
class Lamp(Plugin):
    """Prune the scores lowest relative to the sum of the larger ones in their layer."""

    may_empty_layers: bool = False

    def allocate(self, demand: Demand) -> list[Tensor]:
        """Return the kept groups of each unit, bool [groups]; raises UnsuitableScores for negative ones."""
        return rank_together(demand, [_relative(one) for one in demand.ranked])


def _relative(ranked: Ranked) -> Ranked:
    plain = replace(ranked, mask=None, protected=None)
    values = plain.at(np.arange(ranked.numel)).astype(np.float64)
    if len(values) and values.min() < 0.0:
        raise UnsuitableScores(f"lamp squares scores, but those of {ranked.name} go down to {values.min():g}")
    order = np.argsort(values, kind="stable")
    squares = values[order] ** 2
    rest = np.cumsum(squares[::-1])[::-1]
    relative = np.zeros_like(squares)
    np.divide(squares, rest, out=relative, where=rest > 0.0)
    # Rounding may make a larger score smaller by a hair; the order inside a layer is the criterion's.
    scores = np.empty_like(relative)
    scores[order] = np.maximum.accumulate(relative)
    return replace(ranked, values=torch.from_numpy(scores), absolute=False, scale=1.0)
