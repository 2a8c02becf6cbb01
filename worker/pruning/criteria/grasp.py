"""The GraSP criterion: keep what the flow of gradients depends on, meant for a network not trained yet.

Wang et al. 2020, arXiv:2002.07376, section 4: removing w changes ‖∇L‖² by S(−w) = −w ⊙ Hg to first order, up
to a factor of 2; the weights of highest S(−w) are removed, since without them gradients flow better. Here the
sign is turned, so that higher is kept: +w ⊙ Hg. H and g are those of the mean loss in the layers scored.

Differs from the paper: no temperature on the logits (give a loss that has one), BatchNorm in evaluation
mode. At a minimum g is close to zero, and so is all that this score tells.
"""

import torch
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic


@register(
    "criterion",
    "grasp",
    source="Wang et al. 2020, arXiv:2002.07376, section 4",
    needs=("weights", "gradients"),
)
class Grasp(Plugin):
    """Score w·(Hg), what the norm of the gradient loses with the weight; negative where it gains."""

    def reads(self) -> tuple[Statistic, ...]:
        return ("hessian_gradient",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return w ⊙ Hg, float32, of the weight's shape."""
        return weight.float() * stats.get("hessian_gradient").float()
