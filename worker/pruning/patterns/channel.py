"""The channel pattern: an input channel of a convolution, in every filter that reads it."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.protocols import Division, Reduction, Unit
from worker.pruning.registry import Plugin, register


@register("pattern", "channel", source="He et al. 2017, arXiv:1707.06168, section 3.1")
class Channel(Plugin):
    """Prune whole input channels of convolutions."""

    is_structured: ClassVar[bool] = True
    may_empty_layers: ClassVar[bool] = False
    chooses_inputs: ClassVar[Literal[True]] = True

    reduction: Reduction = "mean"

    def divide(self, model: nn.Module, layers: Sequence[Layer]) -> Division:
        """Make each convolution a unit of its input channels."""
        units, refused = [], []
        for layer in layers:
            if layer.is_convolution:
                channels = layer.convolution_groups * layer.shape[1]
                units.append(Unit((layer,), groups=channels, group_size=layer.numel // channels))
            else:
                refused.append(layer.refused("is linear: it has inputs, not input channels"))
        return Division(tuple(units), tuple(refused))

    def lay_out(self, unit: Unit, layer: Layer, tensor: Tensor) -> Tensor:
        """Lay a tensor out by input channel: [in, out / groups * kernel]."""
        grouped = tensor.reshape(self._split(layer))  # [groups, out / groups, in / groups, kernel]
        return grouped.transpose(1, 2).reshape(unit.groups, unit.group_size)

    def spread(self, unit: Unit, layer: Layer, kept: Tensor) -> Tensor:
        """Repeat each kept channel over the filters that read it."""
        split = self._split(layer)
        return kept.reshape(split[0], 1, split[2], 1).expand(split).reshape(layer.shape)

    def _split(self, layer: Layer) -> tuple[int, int, int, int]:
        groups = layer.convolution_groups
        return groups, layer.shape[0] // groups, layer.shape[1], math.prod(layer.shape[2:])
