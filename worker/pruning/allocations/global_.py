"""The global allocation: one ranking over all layers."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from worker.pruning.protocols import Demand
from worker.pruning.ranked import Ranked
from worker.pruning.ranking import rank_together
from worker.pruning.registry import Plugin, register


@register(
    "allocation", "global", source="Frankle and Carbin 2019, arXiv:1803.03635, section 4 (global pruning)"
)
class Global(Plugin):
    """Prune the lowest scores of all layers together, after an optional normalisation of each layer."""

    normalisation: Literal["none", "mean", "l2", "max"] = "none"
    may_empty_layers: bool = False

    def allocate(self, demand: Demand) -> list[Tensor]:
        """Return the kept groups of each unit, bool [groups]."""
        return rank_together(demand, [self._comparable(one) for one in demand.ranked])

    def _comparable(self, ranked: Ranked) -> Ranked:
        if self.normalisation == "none" or ranked.values.numel() == 0:
            return ranked
        values = ranked.values.detach()
        match self.normalisation:
            case "mean":
                size = float(torch.linalg.vector_norm(values, 1, dtype=torch.float64)) / values.numel()
            case "l2":
                size = float(torch.linalg.vector_norm(values, 2, dtype=torch.float64))
            case "max":
                size = float(torch.linalg.vector_norm(values, float("inf")))
        return replace(ranked, scale=ranked.scale / size) if size > 0.0 else ranked
