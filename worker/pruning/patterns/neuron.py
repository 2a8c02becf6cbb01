"""The neuron pattern: an output of a linear layer, with all its inputs."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.protocols import Division, Reduction, Unit
from worker.pruning.registry import Plugin, register


@register("pattern", "neuron", source="He et al. 2014, ICASSP, Reshaping deep neural networks, section 3")
class Neuron(Plugin):
    """Prune whole output neurons of linear layers."""

    is_structured: ClassVar[bool] = True
    may_empty_layers: ClassVar[bool] = False

    reduction: Reduction = "mean"

    def divide(self, model: nn.Module, layers: Sequence[Layer]) -> Division:
        """Make each linear layer a unit of its outputs."""
        units, refused = [], []
        for layer in layers:
            if layer.is_convolution:
                refused.append(layer.refused("is a convolution: its outputs are filters, not neurons"))
            else:
                outputs = layer.output_first_shape[0]
                units.append(Unit((layer,), groups=outputs, group_size=layer.numel // outputs))
        return Division(tuple(units), tuple(refused))

    def lay_out(self, unit: Unit, layer: Layer, tensor: Tensor) -> Tensor:
        """Lay a tensor out by output: [out, in]."""
        return layer.output_first(tensor)

    def spread(self, unit: Unit, layer: Layer, kept: Tensor) -> Tensor:
        """Repeat each kept output over its inputs."""
        return layer.as_stored(kept[:, None].expand(layer.output_first_shape)).contiguous()
