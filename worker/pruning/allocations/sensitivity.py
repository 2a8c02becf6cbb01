"""The sensitivity allocation: every layer is pruned until it does the same damage.

Han et al. 2015, arXiv:1506.02626, section 4.1 and figure 6: prune one layer at a time and measure. The rise
of the loss is measured at some sparsities of each layer, made monotone and joined by straight lines; the
budget then fixes one rise for all layers, and each goes as far as that allows.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from worker.pruning.apportion import apportion
from worker.pruning.protocols import Demand
from worker.pruning.ranking import prune_each
from worker.pruning.registry import Plugin, register

Level = Annotated[float, Field(gt=0.0, le=1.0)]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
# So that a layer whose pruning does no harm, or even good, still has one sparsity for every rise.
_SLOPE = 1e-6


@register(
    "allocation",
    "sensitivity",
    source="Han et al. 2015, arXiv:1506.02626, section 4.1",
    needs=("activations",),
)
class Sensitivity(Plugin):
    """Prune each layer as far as an equal rise of the measured loss allows."""

    may_empty_layers: bool = False
    levels: Annotated[
        tuple[Level, ...], Field(min_length=1, max_length=64, description="Sparsities to measure at.")
    ] = (0.25, 0.5, 0.75, 0.9)

    def allocate(self, demand: Demand) -> list[Tensor]:
        """Return the kept groups of each unit, bool [groups]; raises MissingData without data."""
        curves = [self._measure(demand, i) for i in range(len(demand.units))]

        def quotas(rise: float) -> list[float]:
            return [
                float(np.interp(rise, rises, levels)) * unit.numel
                for unit, (levels, rises) in zip(demand.units, curves, strict=True)
            ]

        return prune_each(demand, apportion(demand.units, quotas, demand.weights, demand.bounds))

    def _measure(self, demand: Demand, i: int) -> Curve:
        groups = demand.units[i].groups
        counts = sorted({max(1, round(level * groups)) for level in self.levels})
        rises = np.maximum.accumulate([0.0] + [demand.damage(i, count) for count in counts])
        levels = np.array([0, *counts], dtype=np.float64) / groups
        if levels[-1] < 1.0:
            # Nobody measured further; go on as steeply as at the end.
            steepness = (rises[-1] - rises[-2]) / (levels[-1] - levels[-2])
            rises = np.append(rises, rises[-1] + steepness * (1.0 - levels[-1]))
            levels = np.append(levels, 1.0)
        return levels, rises + _SLOPE * levels
