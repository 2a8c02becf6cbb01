"""The Erdős–Rényi kernel allocation: wide layers give more than narrow ones.

Evci et al. 2020, arXiv:1911.11134, section 3, (1) sparsity distribution: the density of a layer is in
proportion to (in + out + kernel sides) / (in * out * kernel), so what it keeps is in proportion to in + out +
kernel sides. Layers that would keep more than they have stay dense, and the others make up for it.
"""

from torch import Tensor

from worker.pruning.apportion import apportion, in_proportion
from worker.pruning.layers import Layer
from worker.pruning.protocols import Bounds, Demand
from worker.pruning.ranking import prune_each
from worker.pruning.registry import Plugin, register


@register("allocation", "erk", source="Evci et al. 2020, arXiv:1911.11134, section 3, equation 2")
class ErdosRenyiKernel(Plugin):
    """Keep weights of each layer in proportion to the sum of its dimensions."""

    may_empty_layers: bool = False

    def allocate(self, demand: Demand) -> list[Tensor]:
        """Return the kept groups of each unit, bool [groups]."""
        units = demand.units
        shares = [float(sum(_dimensions(layer) for layer in unit.layers)) for unit in units]
        keepable = [
            Bounds(unit.groups - bound.high, unit.groups - bound.low)
            for unit, bound in zip(units, demand.bounds, strict=True)
        ]
        total = sum(unit.numel for unit in units)
        kept = apportion(units, in_proportion(shares), total - demand.weights, keepable)
        return prune_each(demand, [unit.groups - count for unit, count in zip(units, kept, strict=True)])


def _dimensions(layer: Layer) -> int:
    return sum(layer.shape)
