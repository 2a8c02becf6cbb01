"""What is known about a model by measurement, so that it need not be measured again."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field


@dataclass
class Measured:
    """`macs`: multiply-accumulates of each layer for one sample, by parameter name.

    `damage`: how much higher the loss is with only this layer pruned, by parameter name, then by the number
    of pruned weights; what the sensitivity allocation measures is added, so that a caller can keep it. It
    holds for one model, criterion, pattern and data only.
    """

    macs: Mapping[str, int] | None = None
    damage: MutableMapping[str, MutableMapping[int, float]] = field(default_factory=dict)
