"""The movement criterion: what moves away from zero while the model is trained is kept.

Sanh et al. 2020, arXiv:2005.07683, equations 4 to 6: S = -Σ_t (∂L/∂W')_t · W_t, where W' is the masked
weight, learned straight through the mask, so that a pruned weight goes on earning its way back. The paper's
experiments (appendix A.1) learn S by Adam like everything else: then a score says how steadily a weight moves
away from zero, and large weights, whose g·w are large in either sign, are not the first to go. The learning
rate of S is left out, as a common factor changes no ranking. Where S is exactly zero, in a layer without
gradients say, magnitude decides.

Differs from the paper: masks are chosen anew at every round, not at every step, and stay as they are once the
schedule has come to the target.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from worker.pruning.adam import start_scores, take_step, zeros_of
from worker.pruning.errors import NeedsTraining
from worker.pruning.protocols import Memory
from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics

# Vanishes beside every sum of products that is not zero, for every weight that is not astronomic.
_TIE_BREAK = 1e-30


@register(
    "criterion",
    "movement",
    source="Sanh et al. 2020, arXiv:2005.07683, equations 4 to 6",
    needs=("weights", "training"),
)
class Movement(Plugin):
    """Score -Σ g·w over the training steps: weights that move away from zero are kept."""

    optimizer: Annotated[
        Literal["adam", "sgd"],
        Field(description="Of the scores: sgd sums -g·w as it is, adam as it compares with its usual size."),
    ] = "adam"

    def start(self, weight: Tensor) -> Memory:
        """Return scores of zero, and Adam's moments where it is the optimizer."""
        return start_scores(weight) if self.optimizer == "adam" else {"scores": zeros_of(weight)}

    @torch.no_grad()
    def learn(self, memory: Memory, weight: Tensor, gradient: Tensor, *, pressure: float) -> None:
        """Take one step against g·w, whatever the pressure."""
        if self.optimizer == "adam":
            take_step(memory, weight.float() * gradient.float(), rate=1.0)
        else:
            memory["scores"].addcmul_(weight.float(), gradient.float(), value=-1)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return the learned scores, float32, of the weight's shape; raises NeedsTraining without any."""
        return read_scores(weight, stats)


def read_scores(weight: Tensor, stats: LayerStatistics) -> Tensor:
    """Return learned scores, with a hair of the magnitude where they are zero."""
    learned = stats.learned_scores
    if learned is None:
        raise NeedsTraining(
            f"{stats.name}: there are no scores yet; movement learns them from training steps"
        )
    return learned.add(weight.float().abs(), alpha=_TIE_BREAK)
