"""The Taylor criterion: what removing a weight does to the loss, to first order.

Molchanov et al. 2017, arXiv:1611.06440, equation 7: |∂C/∂h · h|; on weights, Molchanov et al. 2019,
arXiv:1906.10771, section 3. L(w=0) − L(w) ≈ −w·g, and there are two ways to average that over samples:

- per_sample: E[|w · g|], as published: each sample's effect counts, also where effects of opposite sign
  cancel in the mean;
- batch: |w · E[g]|: the effect on the mean loss. At a minimum E[g] is near zero, and so is all that it tells.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic


@register(
    "criterion",
    "taylor",
    source="Molchanov et al. 2017, arXiv:1611.06440, equation 7",
    needs=("weights", "gradients"),
)
class Taylor(Plugin):
    """Score |w·g|, the first-order change of the loss, averaged per sample or over the batch."""

    form: Annotated[
        Literal["per_sample", "batch"],
        Field(description="per_sample: E[|w·g|], one backward pass a sample; batch: |w·E[g]|, one a batch."),
    ] = "per_sample"

    def reads(self) -> tuple[Statistic, ...]:
        return ("absolute_gradient",) if self.form == "per_sample" else ("gradient",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return E[|w·g|] or |w·E[g]|, float32, of the weight's shape."""
        # |w · g| = |w| |g|, so the mean over samples can be taken before the weight comes in.
        statistic: Statistic = "absolute_gradient" if self.form == "per_sample" else "gradient"
        return weight.float().abs() * stats.get(statistic).abs()
