"""The block pattern: rectangular tiles of a weight live and die together."""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.protocols import Division, Reduction, Unit
from worker.pruning.registry import Plugin, register

Side = Annotated[int, Field(ge=1, le=65_536)]


@register("pattern", "block", source="Narang et al. 2017, arXiv:1711.02782, section 3.1")
class Block(Plugin):
    """Prune tiles of a fixed shape [out, in, *kernel]; sides left out at the end are 1."""

    is_structured: ClassVar[bool] = False
    may_empty_layers: ClassVar[bool] = False

    shape: Annotated[tuple[Side, ...], Field(min_length=1, max_length=5)] = (4, 4)
    reduction: Reduction = "mean"

    def divide(self, model: nn.Module, layers: Sequence[Layer]) -> Division:
        """Make each layer a unit of tiles; refuse those that the tiles do not fill exactly."""
        units, refused = [], []
        for layer in layers:
            why_not = self._why_not(layer)
            if why_not:
                refused.append(layer.refused(why_not))
            else:
                size = math.prod(self.shape)
                units.append(Unit((layer,), groups=layer.numel // size, group_size=size))
        return Division(tuple(units), tuple(refused))

    def lay_out(self, unit: Unit, layer: Layer, tensor: Tensor) -> Tensor:
        """Lay a tensor out by tile, in C order of [out, in, *kernel]: [tiles, weights of a tile]."""
        tiled = layer.output_first(tensor).reshape(self._split(layer))  # [out / a, a, in / b, b, ...]
        rank = len(layer.shape)
        order = [2 * i for i in range(rank)] + [2 * i + 1 for i in range(rank)]
        return tiled.permute(order).reshape(unit.groups, unit.group_size)

    def spread(self, unit: Unit, layer: Layer, kept: Tensor) -> Tensor:
        """Repeat each kept tile over its weights."""
        split = self._split(layer)
        tiles = kept.reshape([count if i % 2 == 0 else 1 for i, count in enumerate(split)])
        full = tiles.expand(split).reshape(layer.output_first_shape)
        return layer.as_stored(full).contiguous()

    def _sides(self, layer: Layer) -> tuple[int, ...]:
        return self.shape + (1,) * (len(layer.shape) - len(self.shape))

    def _split(self, layer: Layer) -> list[int]:
        sizes = zip(layer.output_first_shape, self._sides(layer), strict=True)
        return [part for size, side in sizes for part in (size // side, side)]

    def _why_not(self, layer: Layer) -> str | None:
        shape = layer.output_first_shape
        if len(self.shape) > len(shape):
            return f"a block of {self.shape} has more sides than its {shape}"
        for size, side in zip(shape, self._sides(layer), strict=True):
            if side > size:
                return f"a block of {self.shape} is larger than its {shape}"
            if size % side:
                return f"blocks of {self.shape} do not divide its {shape}"
        return None
