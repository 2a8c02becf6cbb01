"""The unstructured pattern: every weight for itself."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.protocols import Division, Reduction, Unit
from worker.pruning.registry import Plugin, register


@register("pattern", "unstructured", source="Han et al. 2015, arXiv:1506.02626, section 3")
class Unstructured(Plugin):
    """Prune single weights, wherever they are."""

    reduction: ClassVar[Reduction] = "mean"
    is_structured: ClassVar[bool] = False
    may_empty_layers: ClassVar[bool] = False

    def divide(self, model: nn.Module, layers: Sequence[Layer]) -> Division:
        """Make each layer a unit of single weights."""
        return Division(tuple(Unit((layer,), groups=layer.numel, group_size=1) for layer in layers), ())

    def lay_out(self, unit: Unit, layer: Layer, tensor: Tensor) -> Tensor:
        """Lay a tensor out in C order: [numel, 1]."""
        return tensor.reshape(-1, 1)

    def spread(self, unit: Unit, layer: Layer, kept: Tensor) -> Tensor:
        """Give the kept weights the layer's shape."""
        return kept.reshape(layer.shape)
