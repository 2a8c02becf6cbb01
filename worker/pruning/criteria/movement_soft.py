"""The soft movement criterion: a threshold on learned scores, which a regulariser presses below it.

Sanh et al. 2020, arXiv:2005.07683, section 3 (soft movement pruning): a weight is kept while sigmoid(S) is
over τ; S learns by Adam from -g·w, straight through the mask, and from the regulariser λ Σ sigmoid(S).

Differs from the paper: λ is in units of the layer's mean |g·w| at each step, so that one number serves models
and losses of every size; and the threshold is only obeyed up to the target. The round in which the schedule
comes to the full target makes the count exact, by rank, and the masks stay as they are from then on. Too
little pressure leaves all to that round: digits at 95 % came to 0.60 of accuracy with λ = 1, where by then
47 % were pruned, and to 0.96 with λ = 20, which the target stopped; hence the default.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from worker.pruning.adam import start_scores, take_step
from worker.pruning.criteria.movement import read_scores
from worker.pruning.protocols import Memory
from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics


@register(
    "criterion",
    "movement_soft",
    source="Sanh et al. 2020, arXiv:2005.07683, section 3, soft movement pruning",
    needs=("weights", "training"),
)
class SoftMovement(Plugin):
    """Keep what scores over a threshold, under a pressure that grows with the schedule."""

    threshold: Annotated[
        float, Field(gt=0.0, lt=0.5, description="τ of sigmoid(S); scores start at sigmoid(0) = 0.5.")
    ] = 0.1
    regularisation: Annotated[
        float, Field(ge=0.0, description="λ at the full target, in units of the layer's mean |g·w|.")
    ] = 20.0
    score_learning_rate: Annotated[float, Field(gt=0.0, description="Of Adam, as in the paper.")] = 0.01

    @property
    def score_threshold(self) -> float:
        """The S at which sigmoid(S) is the threshold."""
        return math.log(self.threshold / (1.0 - self.threshold))

    def start(self, weight: Tensor) -> Memory:
        """Return scores and Adam's moments of zero."""
        return start_scores(weight)

    @torch.no_grad()
    def learn(self, memory: Memory, weight: Tensor, gradient: Tensor, *, pressure: float) -> None:
        """Take one step of Adam on the scores, against the loss and under the pressure."""
        scores = memory["scores"]
        slope = weight.float() * gradient.float()  # dL/dS
        gate = scores.sigmoid()
        slope += pressure * self.regularisation * slope.abs().mean() * gate * (1.0 - gate)
        take_step(memory, slope, rate=self.score_learning_rate)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return the learned scores S, float32, of the weight's shape; raises NeedsTraining without any."""
        return read_scores(weight, stats)
