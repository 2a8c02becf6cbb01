"""The filter pattern: an output channel of a convolution, with all its inputs."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.protocols import Division, Reduction, Unit
from worker.pruning.registry import Plugin, register


@register("pattern", "filter", source="Li et al. 2017, arXiv:1608.08710, section 3.1")
class Filter(Plugin):
    """Prune whole filters, the output channels of convolutions."""

    is_structured: ClassVar[bool] = True
    may_empty_layers: ClassVar[bool] = False

    reduction: Reduction = "mean"

    def divide(self, model: nn.Module, layers: Sequence[Layer]) -> Division:
        """Make each convolution a unit of its filters."""
        units, refused = [], []
        for layer in layers:
            if layer.is_convolution:
                filters = layer.shape[0]
                units.append(Unit((layer,), groups=filters, group_size=layer.numel // filters))
            else:
                refused.append(layer.refused("is linear: its outputs are neurons, not filters"))
        return Division(tuple(units), tuple(refused))

    def lay_out(self, unit: Unit, layer: Layer, tensor: Tensor) -> Tensor:
        """Lay a tensor out by filter: [out, in / groups * kernel]."""
        return tensor.reshape(unit.groups, unit.group_size)

    def spread(self, unit: Unit, layer: Layer, kept: Tensor) -> Tensor:
        """Repeat each kept filter over its weights."""
        return kept[:, None].expand(unit.groups, unit.group_size).reshape(layer.shape)
