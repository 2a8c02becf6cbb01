"""How important is a unit: a criterion's scores of weights, gathered over all tensors that it lies in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from worker.pruning.errors import NeedsTraining, UnsuitableScores
from worker.pruning.layers import Layer, find_layers
from worker.pruning.protocols import Criterion, LearnsScores, ScoresOutputs
from worker.pruning.ranked import check_finite
from worker.pruning.removal.groups import Cut, Group
from worker.pruning.removal.tracer import Axis
from worker.pruning.statistics import gather
from worker.pruning.statistics.calibration import Calibration

Aggregation = Literal["mean", "sum"]


@dataclass(frozen=True)
class _Part:
    """A cut through a weight that a criterion can score."""

    group: Group
    cut: Cut
    layer: Layer
    axis: int


@torch.no_grad()
def score_units(
    model: nn.Module,
    groups: Sequence[Group],
    criterion: Criterion,
    calibration: Calibration,
    *,
    aggregation: Aggregation = "mean",
) -> dict[str, Tensor]:
    """Return the importance of each unit, float32 [units] on the CPU, by the name of its group.

    A tensor says the mean, or the sum, of the scores of the unit's weights in it; the tensors count alike in
    a mean, or add up. Tensors that are no weights of a layer, such as biases, say nothing. Criteria of output
    channels are asked about these alone. Raises NeedsTraining for criteria that learn, UnsuitableScores
    where nothing of a group can be scored.
    """
    if isinstance(criterion, LearnsScores):
        raise NeedsTraining("scores that training learns come too late: what is cut out cannot come back")
    parts = _find_parts(model, groups, only_outputs=isinstance(criterion, ScoresOutputs))
    names = {part.layer.name for part in parts}
    statistics = gather(model, names, criterion=criterion, calibration=calibration)
    by_group: dict[str, list[Tensor]] = {}
    scored: dict[str, Tensor] = {}
    for part in parts:
        name = part.layer.name
        if name not in scored:
            scored[name] = criterion.score(part.layer.weight.detach(), statistics[name]).float().cpu()
            check_finite(scored[name], name)
        by_group.setdefault(part.group.name, []).append(_reduce(scored[name], part, aggregation))
    return {name: _aggregate(values, aggregation) for name, values in by_group.items()}


def _find_parts(model: nn.Module, groups: Sequence[Group], *, only_outputs: bool) -> list[_Part]:
    layers = {name: layer for layer in find_layers(model) for name in (layer.name, *layer.aliases)}
    parts: list[_Part] = []
    for group in groups:
        before = len(parts)
        for cut in group.cuts:
            layer = layers.get(cut.where.tensor) if isinstance(cut.where, Axis) else None
            if layer is None or not layer.is_prunable:
                continue
            axis = cast(Axis, cut.where).axis
            if not only_outputs or axis != layer.input_dim:
                parts.append(_Part(group, cut, layer, axis))
        if len(parts) == before:
            raise UnsuitableScores(f"no weight of {group.name} can be scored: exclude it")
    return parts


def _reduce(scores: Tensor, part: _Part, aggregation: Aggregation) -> Tensor:
    """Reduce scores of a weight's shape to its units in one of its cuts: [units]."""
    rows = scores.movedim(part.axis, 0).flatten(1)  # [size, rest]
    if aggregation == "sum":
        return rows.sum(1)[part.cut.index].sum(1)
    return rows.mean(1)[part.cut.index].mean(1)


def _aggregate(values: Sequence[Tensor], aggregation: Aggregation) -> Tensor:
    stacked = torch.stack(list(values))  # [tensors, units]
    return stacked.sum(0) if aggregation == "sum" else stacked.mean(0)
