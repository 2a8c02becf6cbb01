"""The geometric-median criterion (FPGM): a filter that the others can stand in for can go, large or small.

He et al. 2019, arXiv:1811.00250, section 3.2: filters closest to the geometric median of their layer are
redundant; ranked by Σ_j ‖F_i − F_j‖₂, the distance to all others.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics

_CHUNK = 256  # filters at a time, so that the distances take [256, out] and not [out, out]


@register("criterion", "fpgm", source="He et al. 2019, arXiv:1811.00250, section 3.2")
class GeometricMedian(Plugin):
    """Score a filter by the sum of its distances to the layer's other filters; its weights all alike."""

    scores_outputs: ClassVar[Literal[True]] = True

    @torch.no_grad()
    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return Σ_j ‖F_i − F_j‖₂ of each weight's filter, float32, of the weight's shape."""
        filters = weight.float().movedim(stats.output_dim, 0).flatten(1)  # [out, features]
        # By matrix products it would be faster, but equal filters would not be at distance zero.
        distances = [
            torch.cdist(chunk, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
            for chunk in torch.split(filters, _CHUNK)
        ]
        return stats.per_output(torch.cat(distances), weight)
