"""The Optimal Brain Damage criterion: the second-order rise of the loss when a weight goes.

LeCun, Denker and Solla 1990, "Optimal brain damage", equation 5: s = h w² / 2 with h the diagonal of the
Hessian. Differs from the paper: h is estimated with random signs, E[z ⊙ Hz] (Hutchinson; Bekas et al. 2007),
since their layer-by-layer recursion fits no modern network, and taken by its absolute value: their recursion
gives no negative curvature either, while an estimate's noise does, and would prune large weights first.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic


@register(
    "criterion",
    "obd",
    source="LeCun et al. 1990, Optimal brain damage, equation 5",
    needs=("weights", "gradients"),
)
class OptimalBrainDamage(Plugin):
    """Score w²·|h|/2 with an estimate of the Hessian's diagonal h."""

    probes: Annotated[
        int,
        Field(ge=1, le=10_000, description="Random vectors to average over; each costs two backward passes."),
    ] = 16

    def reads(self) -> tuple[Statistic, ...]:
        return ("hessian_diagonal",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return w²·|h|/2, float32, of the weight's shape."""
        return weight.float().square() * stats.get("hessian_diagonal").float().abs() / 2
