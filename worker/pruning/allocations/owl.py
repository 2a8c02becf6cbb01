"""The OWL allocation: layers with many outliers give less.

Yin et al. 2024, arXiv:2310.05175, section 3.2: an outlier is a weight whose |w| ||x|| is over M times the
mean of its layer. With D the fraction of outliers of each layer, scaled to 0..2 lambda, a layer's sparsity is
S - (D - mean D). The paper takes D per transformer block, here it is per weight; its mean is weighted by the
layers' sizes, so that the sparsity of the whole is S.
"""

from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from worker.pruning.apportion import apportion
from worker.pruning.protocols import Demand, Unit
from worker.pruning.ranking import prune_each
from worker.pruning.registry import Plugin, register
from worker.pruning.statistics import Statistic


@register(
    "allocation", "owl", source="Yin et al. 2024, arXiv:2310.05175, section 3.2", needs=("activations",)
)
class OutlierWeighed(Plugin):
    """Prune less of layers in which more weights are outliers by |w| times the norm of their input."""

    may_empty_layers: bool = False
    outlier_factor: Annotated[float, Field(gt=0.0, description="M: times the mean of a layer.")] = 5.0
    spread: Annotated[
        float, Field(ge=0.0, le=0.5, description="lambda: how far a layer's sparsity may lie from the mean.")
    ] = 0.08

    def reads(self) -> tuple[Statistic, ...]:
        """Read the norms of the layers' inputs."""
        return ("input_norm",)

    def allocate(self, demand: Demand) -> list[Tensor]:
        """Return the kept groups of each unit, bool [groups]."""
        sizes = np.array([unit.numel for unit in demand.units], dtype=np.float64)
        outliers = np.array([self._outlier_fraction(unit, demand) for unit in demand.units])
        width = outliers.max() - outliers.min()
        shift = (outliers - outliers.min()) / width * 2.0 * self.spread if width > 0.0 else outliers * 0.0
        shift -= np.average(shift, weights=sizes)

        def quotas(level: float) -> list[float]:
            # At the level of the target's sparsity these are the paper's, unless a layer would leave 0..1.
            return [float(quota) for quota in np.clip(level - self.spread * 2.0 - shift, 0.0, 1.0) * sizes]

        return prune_each(demand, apportion(demand.units, quotas, demand.weights, demand.bounds))

    def _outlier_fraction(self, unit: Unit, demand: Demand) -> float:
        outliers = 0
        for layer in unit.layers:
            norms = demand.statistics[layer.name].get("input_norm")
            weighed = layer.weight.detach().float().abs() * norms
            outliers += int((weighed > self.outlier_factor * weighed.mean()).count_nonzero())
        return outliers / unit.numel
