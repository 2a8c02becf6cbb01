"""What is known about a model by measurement, so that it need not be measured again."""

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field

import numpy as np

from worker.pruning.protocols import Unit


@dataclass
class Measured:
    """`macs`: multiply-accumulates of each layer for one sample, by parameter name; `other_macs`: all others.

    `damage`: how much higher the loss is with only this layer pruned, by parameter name, then by the number
    of pruned weights; what the sensitivity allocation measures is added, so that a caller can keep it. It
    holds for one model, criterion, pattern and data only.
    """

    macs: Mapping[str, int] | None = None
    other_macs: int = 0
    damage: MutableMapping[str, MutableMapping[int, float]] = field(default_factory=dict)

    def rise(self, name: str, pruned: float) -> float:
        """Return how much higher the loss is with `pruned` weights of one layer, and nothing else, gone.

        It is linear between what was measured, and beyond that as steep as at the end.
        """
        counts, rises = zip(*sorted({0: 0.0, **self.damage[name]}.items()), strict=True)
        if pruned > counts[-1]:
            steepness = (rises[-1] - rises[-2]) / (counts[-1] - counts[-2])
            return float(rises[-1] + steepness * (pruned - counts[-1]))
        return float(np.interp(pruned, counts, rises))

    def rises(self, units: Iterable[Unit], sparsity: float) -> dict[str, float]:
        """Return how much higher the loss is with one layer alone so sparse, by name, of those measured."""
        return {
            layer.name: self.rise(unit.name, sparsity * unit.numel)
            for unit in units
            if self.damage.get(unit.name)
            for layer in unit.layers
        }
