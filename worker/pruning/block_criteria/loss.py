"""Loss of a block's absence: how much worse the model is without it.

Kim et al. 2024, Shortened LLaMA, arXiv:2402.02834, section 3.1: the perplexity on calibration data with one
block left out, compared between blocks. Here it is the loss of the task, whose exponential a perplexity is,
less the loss with all blocks: the order is the same.
"""

from worker.pruning.registry import Plugin, register


@register(
    "block_criterion",
    "block_loss",
    source="Kim et al. 2024, arXiv:2402.02834, section 3.1",
    needs=("activations",),
)
class BlockLoss(Plugin):
    """Score a block by how much the loss over the calibration samples rises when it alone is left out."""

    def score_absence(self, whole: float, without: float) -> float:
        """Return the rise of the mean loss, negative where the model is better without the block."""
        return without - whole
