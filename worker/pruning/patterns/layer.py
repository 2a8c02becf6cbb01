"""The layer pattern: whole layers live and die."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.protocols import Division, Reduction, Unit
from worker.pruning.registry import Plugin, register


@register("pattern", "layer", source="Chen and Zhao 2018, IEEE TPAMI 41(12), Shallowing deep networks")
class WholeLayer(Plugin):
    """Prune whole layers, for networks whose residual connections carry on without them."""

    is_structured: ClassVar[bool] = True
    may_empty_layers: ClassVar[bool] = True

    reduction: Reduction = "mean"

    def divide(self, model: nn.Module, layers: Sequence[Layer]) -> Division:
        """Make each layer a unit of one group."""
        return Division(tuple(Unit((layer,), groups=1, group_size=layer.numel) for layer in layers), ())

    def lay_out(self, unit: Unit, layer: Layer, tensor: Tensor) -> Tensor:
        """Lay a tensor out as one group: [1, numel]."""
        return tensor.reshape(1, -1)

    def spread(self, unit: Unit, layer: Layer, kept: Tensor) -> Tensor:
        """Keep all or nothing."""
        return kept.expand(layer.numel).reshape(layer.shape)
