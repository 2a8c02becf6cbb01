"""The activation criterion: outputs that are small, or zero most of the time, matter little.

magnitude: the mean of |y| over samples and positions (Molchanov et al. 2017, arXiv:1611.06440, section 2.2),
with y the layer's own output: that is what a mask takes away. Measured behind its BatchNorm instead, it
ranked the filters of ResNet-20 no better than chance, since a masked filter leaves the BatchNorm's constant.
apoz: 1 − APoZ, where APoZ is the share of zeros behind the ReLU (Hu et al. 2016, arXiv:1607.03250,
equation 1). It is taken behind the layer's BatchNorm where it has one; y ≤ 0 counts as the zero that a ReLU
would make of it, so no ReLU has to be found, and a residual sum in between is not seen.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics, Statistic


@register(
    "criterion",
    "activation",
    source="Molchanov et al. 2017, arXiv:1611.06440, section 2.2; Hu et al. 2016, arXiv:1607.03250, eq. 1",
    needs=("activations",),
)
class Activation(Plugin):
    """Score an output unit by its mean magnitude, or by how often it is not zero; its weights all alike."""

    scores_outputs: ClassVar[Literal[True]] = True

    measure: Annotated[
        Literal["magnitude", "apoz"],
        Field(description="magnitude: mean |y|; apoz: the fraction of outputs that a ReLU leaves over zero."),
    ] = "magnitude"

    def reads(self) -> tuple[Statistic, ...]:
        return ("output_magnitude",) if self.measure == "magnitude" else ("output_zero_fraction",)

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return E[|y|] or 1 − APoZ of each weight's output unit, float32, of the weight's shape."""
        if self.measure == "magnitude":
            return stats.per_output(stats.get("output_magnitude"), weight)
        return stats.per_output(1.0 - stats.get("output_zero_fraction"), weight)
