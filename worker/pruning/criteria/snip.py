"""The SNIP criterion: connection sensitivity, meant for a network that is not trained yet.

Lee et al. 2019, arXiv:1810.02340, section 4.1: s_j = |g_j| / Σ_k |g_k|, where g_j = ∂L/∂c_j at c = 1 is the
effect of a switch c_j on the weight c_j·w_j, hence g_j = w_j · ∂L/∂w_j. The sum runs over every layer that is
scored. Differs from the paper: BatchNorm is in evaluation mode, as in all our gathering.
"""

import torch
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic


@register(
    "criterion",
    "snip",
    source="Lee et al. 2019, arXiv:1810.02340, section 4.1",
    needs=("weights", "gradients"),
)
class Snip(Plugin):
    """Score connection sensitivity: |w·g| of the mean loss, as a share of its sum over the network."""

    def reads(self) -> tuple[Statistic, ...]:
        return ("gradient", "connection_total")

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return |w·E[g]| / Σ|w·E[g]|, float32, of the weight's shape; all zero where every gradient is."""
        sensitivity = (weight.float() * stats.get("gradient")).abs()
        total = stats.get("connection_total").item()
        return sensitivity / total if total > 0 else sensitivity
