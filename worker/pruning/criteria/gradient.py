"""The gradient criterion: where the loss reacts to a weight, keep it.

|E[g]|, as RigL grows connections by it: Evci et al. 2020, arXiv:1911.11134, section 3, "grow". It leaves out
how far the weight is from zero, which `taylor` puts in.
"""

import torch
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic


@register(
    "criterion", "gradient", source="Evci et al. 2020, arXiv:1911.11134, section 3", needs=("gradients",)
)
class Gradient(Plugin):
    """Score |g|, the magnitude of the mean gradient."""

    def reads(self) -> tuple[Statistic, ...]:
        return ("gradient",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return |E[g]|, float32, of the weight's shape."""
        return stats.get("gradient").float().abs()
