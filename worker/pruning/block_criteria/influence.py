"""Block influence: how far a block turns the hidden states that pass through it.

Men et al. 2024, ShortGPT, arXiv:2403.03853, equation 1: BI = 1 − E[x·y / (‖x‖ ‖y‖)], x a token's hidden state
before the block, y after it. Padding is left out of the mean.
"""

import torch
from torch import Tensor
from torch.nn import functional

from worker.pruning.registry import Plugin, register


@register(
    "block_criterion",
    "block_influence",
    source="Men et al. 2024, arXiv:2403.03853, equation 1",
    needs=("activations",),
)
class BlockInfluence(Plugin):
    """Score a block by 1 − the cosine between the hidden states that it is given and those it puts out."""

    @torch.no_grad()
    def score_states(self, before: Tensor, after: Tensor) -> Tensor:
        """Return 1 − cos of hidden states [..., width], float32 [...]."""
        return 1.0 - functional.cosine_similarity(before.float(), after.float(), dim=-1)
