"""The head pattern: an attention head in all four projections at once."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from worker.pruning.attention import find_attentions
from worker.pruning.layers import Layer
from worker.pruning.protocols import Division, Reduction, Unit
from worker.pruning.registry import Plugin, register


@register("pattern", "head", source="Michel et al. 2019, arXiv:1905.10650, section 2.3")
class Head(Plugin):
    """Prune whole attention heads: rows of query, key and value, columns of the output.

    Where queries share key heads (grouped-query attention), a key head goes with all of its queries.
    """

    is_structured: ClassVar[bool] = True
    may_empty_layers: ClassVar[bool] = False

    num_heads: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Heads of keys and values; read from the model where it says so."
    )
    reduction: Reduction = "mean"

    def divide(self, model: nn.Module, layers: Sequence[Layer]) -> Division:
        """Make each attention a unit of its heads."""
        attentions, why_not = find_attentions(model, layers, self.num_heads)
        units = [
            Unit(
                attention.layers,
                groups=attention.heads,
                group_size=sum(layer.numel for layer in attention.layers) // attention.heads,
            )
            for attention in attentions
        ]
        refused = [layer.refused(why_not[layer.name]) for layer in layers if layer.name in why_not]
        return Division(tuple(units), tuple(refused))

    def lay_out(self, unit: Unit, layer: Layer, tensor: Tensor) -> Tensor:
        """Lay a tensor out by head: [heads, weights of the head in this projection]."""
        matrix = layer.output_first(tensor)  # [out, in]
        if layer is not unit.layers[-1]:
            return matrix.reshape(unit.groups, -1)
        by_head = matrix.reshape(matrix.shape[0], unit.groups, -1)  # [out, heads, head size]
        return by_head.transpose(0, 1).reshape(unit.groups, -1)

    def spread(self, unit: Unit, layer: Layer, kept: Tensor) -> Tensor:
        """Repeat each kept head over its rows, or its columns in the output projection."""
        outputs, inputs = layer.output_first_shape
        if layer is not unit.layers[-1]:
            matrix = kept.repeat_interleave(outputs // unit.groups)[:, None].expand(outputs, inputs)
        else:
            matrix = kept.repeat_interleave(inputs // unit.groups)[None, :].expand(outputs, inputs)
        return layer.as_stored(matrix).contiguous()
