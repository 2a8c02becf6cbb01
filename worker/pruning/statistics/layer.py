"""The statistics of one layer: the plain data that every criterion's score is computed from."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from worker.pruning.errors import PruningError

Statistic = Literal[
    "gradient",
    "absolute_gradient",
    "squared_gradient",
    "connection_total",
    "hessian_gradient",
    "hessian_diagonal",
    "input_norm",
    "input_gram",
    "output_magnitude",
    "output_zero_fraction",
    "flow_gradient",
    "batchnorm_scale",
]


class MissingStatistic(PruningError):
    """A criterion reads a statistic that was not gathered."""


class NonfiniteStatistics(PruningError):
    """A gathered statistic holds NaN or infinity: the model, its loss or the data does."""


class LayerNeverRan(PruningError):
    """The forward pass does not call a layer whose activations, or operations, are asked for."""


class NoBatchNorm(PruningError):
    """A criterion reads the scale of the BatchNorm behind a layer that has none behind it."""


@runtime_checkable
class ReadsStatistics(Protocol):
    """What a criterion adds to `score` to be given statistics; one without it reads weights alone."""

    def reads(self) -> tuple[Statistic, ...]: ...


@runtime_checkable
class EstimatesCurvature(Protocol):
    """What a criterion that reads `hessian_diagonal` adds: how many random vectors to average over."""

    probes: int


@dataclass(frozen=True)
class LayerStatistics:
    """What was gathered about one weight; a field is None when the criterion does not read it.

    The weight is [out, in / groups, *kernel] when `input_dim` is 1 (Linear, convolutions) and [in, out]
    when it is 0 (the Conv1D of transformers). All tensors are on the weight's device, float32 unless said
    otherwise. E is the mean over `samples` samples, g the gradient of the loss of one sample.

    gradient              E[g], shaped as the weight
    absolute_gradient     E[|g|], shaped as the weight
    squared_gradient      E[g²], shaped as the weight
    connection_total      sum of |w · E[g]| over every gathered layer, float64 scalar
    hessian_gradient      H E[g], shaped as the weight; H is the Hessian of the mean loss
    hessian_diagonal      estimate of diag H, shaped as the weight
    input_norm            ||x||₂ of each input feature over all samples and positions, broadcasts to weight
    input_gram            mean of x xᵀ over all samples and positions, [groups, features, features], where
                          features = in / groups · kernel, in the order of a row of the weight
    output_magnitude      E[|y|] of each output unit of the layer itself, [out]
    output_zero_fraction  fraction of y ≤ 0 (what a ReLU makes zero) of each output unit, behind its
                          BatchNorm if there is one, [out]
    flow_gradient         ∂R/∂|w| / R of SynFlow's data-free objective R, shaped as the weight, float64
    batchnorm_scale       |γ| of the BatchNorm behind the layer, [out]

    learned_scores        what a criterion that learns made of the training so far, shaped as the weight; not
                          gathered but handed on by the pruner, None before the first step
    """

    name: str = ""
    input_dim: Literal[0, 1] = 1
    groups: int = 1
    seed: int = 0
    samples: int = 0
    gradient: Tensor | None = None
    absolute_gradient: Tensor | None = None
    squared_gradient: Tensor | None = None
    connection_total: Tensor | None = None
    hessian_gradient: Tensor | None = None
    hessian_diagonal: Tensor | None = None
    input_norm: Tensor | None = None
    input_gram: Tensor | None = None
    output_magnitude: Tensor | None = None
    output_zero_fraction: Tensor | None = None
    flow_gradient: Tensor | None = None
    batchnorm_scale: Tensor | None = None
    learned_scores: Tensor | None = None

    @property
    def output_dim(self) -> int:
        return 1 - self.input_dim

    def get(self, statistic: Statistic) -> Tensor:
        """Return one statistic; raise MissingStatistic when it was not gathered."""
        value = getattr(self, statistic)
        if not isinstance(value, Tensor):
            raise MissingStatistic(
                f"{self.name}: {statistic} was not gathered; a criterion names what it reads in its reads()"
            )
        return value

    def per_output(self, unit_scores: Tensor, weight: Tensor) -> Tensor:
        """Give every weight the score of its output unit: [out] → float32, shaped as the weight."""
        shape = [1] * weight.dim()
        shape[self.output_dim] = weight.shape[self.output_dim]
        return unit_scores.float().reshape(shape).expand(weight.shape).contiguous()


def is_transposed(module: nn.Module) -> bool:
    """Say whether a module is the Conv1D of transformers, whose weight is [in, out]."""
    # Known by name: importing transformers to ask would cost seconds and a dependency.
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def as_rows(weight: Tensor, stats: LayerStatistics) -> Tensor:
    """Lay a weight out as [groups, out / groups, features], the features in the order of `input_gram`."""
    matrix = weight.t() if stats.input_dim == 0 else weight.flatten(1)  # [out, features]
    return matrix.reshape(stats.groups, -1, matrix.shape[1])


def from_rows(rows: Tensor, like: Tensor, stats: LayerStatistics) -> Tensor:
    """Undo `as_rows`: [groups, out / groups, features] → shaped as the weight `like`."""
    matrix = rows.reshape(-1, rows.shape[-1])
    return matrix.t().contiguous() if stats.input_dim == 0 else matrix.reshape(like.shape)
