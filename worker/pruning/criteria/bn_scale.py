"""The BatchNorm-scale criterion (network slimming): a channel that its BatchNorm scales to nothing can go.

Liu et al. 2017, arXiv:1708.06519, section 3: rank channels over the whole network by |γ|. The paper trains
with an L1 penalty on γ first; without it, γ says less. Layers without a BatchNorm behind them are refused.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic


@register("criterion", "bn_scale", source="Liu et al. 2017, arXiv:1708.06519, section 3")
class BatchNormScale(Plugin):
    """Score an output channel by |γ| of the BatchNorm behind it; its weights all alike."""

    scores_outputs: ClassVar[Literal[True]] = True

    def reads(self) -> tuple[Statistic, ...]:
        return ("batchnorm_scale",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return |γ| of each weight's output channel, float32, of the weight's shape."""
        return stats.per_output(stats.get("batchnorm_scale"), weight)
