"""The Fisher criterion: how much a weight's absence changes what the network says, to second order.

Theis et al. 2018, arXiv:1801.05787, equation 6, on single weights: w² · E[g²], with the empirical Fisher
information's diagonal E[g²] from the gradients of single samples. Twice the predicted rise of the loss, which
changes no order.
"""

import torch
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic


@register(
    "criterion",
    "fisher",
    source="Theis et al. 2018, arXiv:1801.05787, equation 6",
    needs=("weights", "gradients"),
)
class Fisher(Plugin):
    """Score w²·E[g²] with the diagonal of the empirical Fisher information."""

    def reads(self) -> tuple[Statistic, ...]:
        return ("squared_gradient",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return w²·E[g²], float32, of the weight's shape."""
        return weight.float().square() * stats.get("squared_gradient").float()
