"""What criteria, patterns, allocations and schedules promise each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.ranked import Ranked
from worker.pruning.statistics import LayerStatistics

Reduction = Literal["mean", "sum", "l2", "max"]


class Criterion(Protocol):
    """How important is a weight?"""

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return float32 scores of the weight's shape; higher is kept."""
        ...


@runtime_checkable
class RanksLikeMagnitude(Protocol):
    """A criterion whose scores order single weights as |weight| does: they need not be computed to rank."""

    ranks_like_magnitude: ClassVar[Literal[True]]


@runtime_checkable
class UpdatesWeights(Protocol):
    """A criterion that changes the kept weights to make up for the pruned ones."""

    def update_weight(self, weight: Tensor, mask: Tensor, stats: LayerStatistics) -> Tensor:
        """Return the weight to put in place, of its shape and dtype, zero where the mask prunes."""
        ...


@dataclass(frozen=True)
class Unit:
    """What a pattern chooses among: one layer for most patterns, an attention's projections for heads.

    It has `groups` groups, each of `group_size` weights, that live and die as one.
    """

    layers: tuple[Layer, ...]
    groups: int
    group_size: int

    @property
    def name(self) -> str:
        return self.layers[0].name

    @property
    def numel(self) -> int:
        return self.groups * self.group_size


@dataclass(frozen=True)
class Division:
    """How a pattern divides a model: units that it prunes, and layers that it refuses (see why_not)."""

    units: tuple[Unit, ...]
    refused: tuple[Layer, ...]


class Pattern(Protocol):
    """Which weights live and die together?"""

    reduction: Reduction
    """How the scores of a group become one."""

    is_structured: ClassVar[bool]
    """True when what is pruned can be cut out of the tensors, so that no mask has to be stored."""

    may_empty_layers: ClassVar[bool]
    """True when a layer may lose its last group because the pattern is made for that."""

    def divide(self, model: nn.Module, layers: Sequence[Layer]) -> Division:
        """Divide prunable layers into units of groups."""
        ...

    def lay_out(self, unit: Unit, layer: Layer, tensor: Tensor) -> Tensor:
        """Lay a tensor of a layer's shape out by group: [groups, weights of the group in this layer]."""
        ...

    def spread(self, unit: Unit, layer: Layer, kept: Tensor) -> Tensor:
        """Turn kept groups, bool [groups], into a mask of the layer's shape."""
        ...


@runtime_checkable
class FixesSparsity(Protocol):
    """A pattern that leaves no choice of sparsity: so many weights of every layer go."""

    @property
    def fixed_sparsity(self) -> float: ...

    def protect(self, unit: Unit, ranked: Ranked) -> Tensor:
        """Mark the groups that stay, bool [groups]; all others go when the pattern is complete."""
        ...


@dataclass(frozen=True)
class Bounds:
    """How many groups of a unit must go at least and may go at most."""

    low: int
    high: int


@dataclass(frozen=True)
class Demand:
    """What an allocation has to fulfil: `weights` of the units' weights pruned, each unit within its bounds.

    `ranked` holds the scores of each unit's groups, in the order of `units` (sorted by name). `statistics`
    are by parameter name, what the allocation reads. `damage(i, count)` measures how much higher the loss is
    when only the `count` lowest groups of unit i are pruned; it raises MissingData without data.
    """

    units: tuple[Unit, ...]
    ranked: tuple[Ranked, ...]
    bounds: tuple[Bounds, ...]
    weights: int
    statistics: Mapping[str, LayerStatistics]
    damage: Callable[[int, int], float]


class Allocation(Protocol):
    """How much of each layer goes?"""

    def allocate(self, demand: Demand) -> list[Tensor]:
        """Return the kept groups of each unit, bool [groups]."""
        ...


class Schedule(Protocol):
    """How much is pruned when?"""

    def fraction(self, progress: float) -> float:
        """Return the fraction of the target, 0..1, that is due at a progress of 0..1; it never falls."""
        ...
