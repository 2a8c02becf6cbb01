"""The magnitude criterion: small weights matter little.

Han et al. 2015, arXiv:1506.02626, section 3: prune |w| below a threshold. For groups, the sum of |w|^p over a
group is its p-norm to the p-th power (Li et al. 2017, arXiv:1608.08710, section 3.1, with p = 1).
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import LayerStatistics


@register("criterion", "magnitude", source="Han et al. 2015, arXiv:1506.02626, section 3")
class Magnitude(Plugin):
    """Score |w|^p, so that a group's sum is its p-norm to the p-th power."""

    p: Annotated[float, Field(gt=0.0, allow_inf_nan=False, description="The norm; 1 and 2 are usual.")] = 1.0

    @property
    def scores_magnitude(self) -> bool:
        """True where the scores are |w|: to another power they have its order, but neither sums nor means."""
        return self.p == 1.0

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return |weight|^p, float32, of the weight's shape."""
        magnitude = weight.detach().float().abs()
        return magnitude if self.p == 1.0 else magnitude**self.p
