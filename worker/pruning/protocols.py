"""What criteria, patterns, allocations and schedules promise each other."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
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
class MayScoreMagnitude(Protocol):
    """A criterion whose scores may be |weight| itself: then they need not be computed to rank."""

    @property
    def scores_magnitude(self) -> bool: ...


@runtime_checkable
class ScoresOutputs(Protocol):
    """A criterion whose scores are those of output channels: of a weight's inputs they say nothing."""

    scores_outputs: ClassVar[Literal[True]]


@runtime_checkable
class UpdatesWeights(Protocol):
    """A criterion that changes the kept weights to make up for the pruned ones."""

    def update_weight(self, weight: Tensor, mask: Tensor, stats: LayerStatistics) -> Tensor:
        """Return the weight to put in place, of its shape and dtype, zero where the mask prunes."""
        ...


Memory = MutableMapping[str, Tensor]


@runtime_checkable
class LearnsScores(Protocol):
    """A criterion whose scores are learned from the gradients of the training that it prunes.

    What it remembers of a layer are tensors by name, `scores` among them: float32, of the weight's shape.
    """

    def start(self, weight: Tensor) -> Memory:
        """Return what is remembered of a layer before the first step."""
        ...

    def learn(self, memory: Memory, weight: Tensor, gradient: Tensor, *, pressure: float) -> None:
        """Take in one step's gradient, in place.

        `weight` is the layer's, with the last value that each pruned weight had; `gradient` is that of the
        masked weight, dense, of its shape. `pressure`, 0..1, says how much of the target is due.
        """
        ...


@runtime_checkable
class ThresholdsScores(Protocol):
    """A criterion which itself says how many go, before the full target is due: those up to a threshold."""

    @property
    def score_threshold(self) -> float: ...


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


@runtime_checkable
class ChoosesInputs(Protocol):
    """A pattern that chooses among the inputs of each output: one score for all of them tells it nothing."""

    chooses_inputs: ClassVar[Literal[True]]


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


@runtime_checkable
class CountsOnDensity(Protocol):
    """A schedule whose steps depend on the density, 0..1, that is left in the end."""

    def aimed_at(self, final_density: float) -> Schedule:
        """Return this schedule for a known final density."""
        ...


@runtime_checkable
class Regrows(Protocol):
    """A schedule that prunes to the target at once, then moves the kept weights about while training.

    Every `interval_fraction` of the run, until `stop_fraction` of it, a share of each layer's kept weights
    goes, those of least magnitude, and as many others come in their stead.
    """

    @property
    def interval_fraction(self) -> float: ...
    @property
    def stop_fraction(self) -> float: ...

    grows_by: ClassVar[Literal["gradient", "chance"]]

    def share(self, progress: float) -> float:
        """Return the share of the kept weights that goes at a progress of 0..1 of the run."""
        ...


Control = Literal["random_mask", "random_reinit"]


@runtime_checkable
class Cycles(Protocol):
    """A schedule of several trainings: one for each round, and a dense one first where it says so.

    `rewind_fraction` says from which weights each training after a round starts: None from those it found,
    otherwise from those at this fraction of the first training, 0 being the initial ones. `controls` are
    trainings to compare the last one with.
    """

    @property
    def rounds(self) -> int: ...
    @property
    def rewind_fraction(self) -> float | None: ...
    @property
    def trains_dense_first(self) -> bool: ...
    @property
    def controls(self) -> tuple[Control, ...]: ...

    def fraction_after(self, round: int) -> float:
        """Return the fraction of the target that is pruned after a round of 1..rounds; 0 after round 0."""
        ...
