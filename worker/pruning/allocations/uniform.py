"""The uniform allocation: the same sparsity in every layer."""

from torch import Tensor

from worker.pruning.apportion import apportion, in_proportion
from worker.pruning.protocols import Demand
from worker.pruning.ranking import prune_each
from worker.pruning.registry import Plugin, register


@register("allocation", "uniform", source="Zhu and Gupta 2017, arXiv:1710.01878, section 3")
class Uniform(Plugin):
    """Prune the same fraction of every layer."""

    may_empty_layers: bool = False

    def allocate(self, demand: Demand) -> list[Tensor]:
        """Return the kept groups of each unit, bool [groups]."""
        shares = [float(unit.numel) for unit in demand.units]
        return prune_each(
            demand, apportion(demand.units, in_proportion(shares), demand.weights, demand.bounds)
        )
