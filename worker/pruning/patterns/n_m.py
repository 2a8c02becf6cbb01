"""The N:M pattern: of every M weights in a row along the input, so many are kept.

Along the input because that is the dimension a matrix product sums over, and the one in which sparse tensor
cores skip (Mishra et al. 2021, arXiv:2104.08378, section 3). For a convolution [out, in / groups, *kernel]
the groups run over the channels at each kernel position, which are neighbours in the product's inner
dimension once the kernel comes first.
"""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.protocols import Division, Reduction, Unit
from worker.pruning.ranked import Ranked
from worker.pruning.registry import Plugin, register

# Up to here, comparing every pair of a group beats sorting each group (measured for 4: 6 times).
_MOST_TO_COMPARE = 16


@register("pattern", "n_m", source="Mishra et al. 2021, arXiv:2104.08378, section 3")
class KeepNOfM(Plugin):
    """Keep so many of every so many weights along the input; the sparsity is then 1 - keep / of."""

    reduction: ClassVar[Reduction] = "mean"
    is_structured: ClassVar[bool] = False
    may_empty_layers: ClassVar[bool] = False
    chooses_inputs: ClassVar[Literal[True]] = True

    keep: Annotated[int, Field(ge=1, le=1024, description="Weights kept in each group.")] = 2
    of: Annotated[int, Field(ge=2, le=1024, description="Weights in a group.")] = 4

    @model_validator(mode="after")
    def _keeps_no_more_than_there_are(self) -> Self:
        if self.keep > self.of:
            raise ValueError(f"cannot keep {self.keep} of {self.of}")
        return self

    @property
    def fixed_sparsity(self) -> float:
        """The sparsity of every layer, 0..1."""
        return 1.0 - self.keep / self.of

    def divide(self, model: nn.Module, layers: Sequence[Layer]) -> Division:
        """Make each layer a unit of single weights; refuse those whose input `of` does not divide."""
        units, refused = [], []
        for layer in layers:
            inputs = layer.shape[layer.input_dim]
            if inputs % self.of:
                refused.append(layer.refused(f"its input of {inputs} is no multiple of {self.of}"))
            else:
                units.append(Unit((layer,), groups=layer.numel, group_size=1))
        return Division(tuple(units), tuple(refused))

    def lay_out(self, unit: Unit, layer: Layer, tensor: Tensor) -> Tensor:
        """Lay a tensor out in C order: [numel, 1]."""
        return tensor.reshape(-1, 1)

    def spread(self, unit: Unit, layer: Layer, kept: Tensor) -> Tensor:
        """Give the kept weights the layer's shape."""
        return kept.reshape(layer.shape)

    def protect(self, unit: Unit, ranked: Ranked) -> Tensor:
        """Mark the `keep` highest of each group, the later of equal ones, bool [numel]."""
        layer = unit.layers[0]
        values = torch.from_numpy(ranked.at(np.arange(ranked.numel))).reshape(layer.shape)
        along = values.movedim(layer.input_dim, -1)  # [out, *kernel, in]
        groups = along.reshape(-1, self.of)  # [out * kernel * in / of, of]
        highest = (_positions_by_rank(groups) >= self.of - self.keep).reshape(along.shape)
        return highest.movedim(-1, layer.input_dim).reshape(-1).to(ranked.values.device)


def _positions_by_rank(groups: Tensor) -> Tensor:
    """Return for each value how many of its row rank below it, equal ones by position: [rows, of]."""
    of = groups.shape[1]
    if of > _MOST_TO_COMPARE:
        return groups.argsort(dim=1, stable=True).argsort(dim=1)
    ranks = torch.zeros(groups.shape, dtype=torch.uint8, device=groups.device)
    for first in range(of):
        for second in range(first + 1, of):
            is_higher = groups[:, first] > groups[:, second]
            ranks[:, first] += is_higher
            ranks[:, second] += ~is_higher
    return ranks
