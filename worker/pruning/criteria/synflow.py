"""The SynFlow criterion: a weight's share of the paths from input to output, by weights alone.

Tanaka et al. 2020, arXiv:2006.05467, equation 2: R = 1ᵀ(∏|W⁽ˡ⁾|)1 and the score ∂R/∂w ⊙ w. Here it is divided
by R, which changes no order and keeps deep networks inside float32; worker/pruning/statistics/synflow.py says
what becomes of BatchNorm, biases, attention and embeddings.

As published, pruning is iterative: 100 rounds of scoring and pruning on an exponential schedule, which is
what keeps layers from vanishing. One call of `score` is one round, so whoever calls repeats it: a gradual
schedule gathers anew in every round. That is for networks that are not trained yet: of a trained ResNet-20 at
50 %, 100 rounds leave an accuracy of 49.6 %, one round 87.3 %; 8.4 % of the filters lose over nine tenths of
their weights to the rounds, 4.8 % to the one. Data is not looked at, but one batch has to be there for the
shape of its inputs.
"""

import torch
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic


@register(
    "criterion",
    "synflow",
    source="Tanaka et al. 2020, arXiv:2006.05467, equation 2",
    needs=("weights", "gradients"),
)
class Synflow(Plugin):
    """Score the share of the network's paths that runs through a weight, each path by its product of |w|."""

    def reads(self) -> tuple[Statistic, ...]:
        return ("flow_gradient",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return |w| ∂R/∂|w| / R, float32, of the weight's shape; a layer that all paths cross sums to 1."""
        return (weight.double().abs() * stats.get("flow_gradient")).float()
