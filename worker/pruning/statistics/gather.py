"""Gather the statistics that a criterion reads, once for all layers, and leave the model as it was."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worker.pruning.statistics.activations import ACTIVATIONS, gather_activations
from worker.pruning.statistics.batchnorm import scales_behind
from worker.pruning.statistics.calibration import (
    Batch,
    Calibration,
    default_loss,
    read_batches,
    undisturbed,
)
from worker.pruning.statistics.differentiation import Differentiation
from worker.pruning.statistics.gradients import GRADIENTS, gather_gradients
from worker.pruning.statistics.layer import (
    EstimatesCurvature,
    LayerStatistics,
    NonfiniteStatistics,
    ReadsStatistics,
    Statistic,
    is_transposed,
)
from worker.pruning.statistics.modules import check_names, groups_of, owners
from worker.pruning.statistics.synflow import gather_flow

DATA_FREE: frozenset[Statistic] = frozenset({"batchnorm_scale"})
_Found = Mapping[Statistic, Mapping[str, Tensor]]


def gather(
    model: nn.Module,
    layers: Collection[str],
    *,
    criterion: object,
    calibration: Calibration | None = None,
) -> dict[str, LayerStatistics]:
    """Gather what a criterion reads about the named parameters, by name.

    The model runs in evaluation mode on its own device, and comes back unchanged: weights, `.grad`,
    `requires_grad`, buffers, hooks and modes. Equal data and seed give equal statistics, whatever the order
    of `layers`. Raises MissingData when the criterion needs data and there is none, NoMatch for a name
    that is no parameter, NonfiniteStatistics when NaN or infinity comes out.
    """
    names = sorted(set(layers))
    check_names(model, names)
    calibration = calibration or Calibration()
    batches = _batches(model, criterion, calibration)
    with undisturbed(model):
        found = _gather(model, names, batches, criterion=criterion, calibration=calibration)
    _check_finite(found)
    return {
        name: LayerStatistics(
            name=name,
            input_dim=0 if is_transposed(modules[0]) else 1,
            groups=groups_of(modules[0]),
            seed=calibration.seed,
            samples=sum(batch.size for batch in batches),
            **_fields(found, name),
        )
        for name, modules in owners(model, names).items()
    }


def reads_of(criterion: object) -> tuple[Statistic, ...]:
    """Return the statistics that a criterion reads: what its `reads()` says, otherwise none."""
    return criterion.reads() if isinstance(criterion, ReadsStatistics) else ()


def _batches(model: nn.Module, criterion: object, calibration: Calibration) -> list[Batch]:
    wanted = set(reads_of(criterion))
    if not wanted or (calibration.data is None and wanted <= DATA_FREE):
        return []
    device = next(model.parameters()).device
    return read_batches(calibration, device=device, reason=type(criterion).__name__)


def _gather(
    model: nn.Module,
    names: list[str],
    batches: list[Batch],
    *,
    criterion: object,
    calibration: Calibration,
) -> dict[Statistic, Mapping[str, Tensor]]:
    wanted = frozenset(reads_of(criterion))
    found: dict[Statistic, Mapping[str, Tensor]] = {}
    if GRADIENTS & wanted:
        of = Differentiation(model, names, batches, calibration.loss or default_loss)
        probes = criterion.probes if isinstance(criterion, EstimatesCurvature) else 1
        found |= gather_gradients(of, wanted, seed=calibration.seed, probes=probes)
    if ACTIVATIONS & wanted:
        found |= gather_activations(model, owners(model, names), batches, wanted)
    if "flow_gradient" in wanted:
        found["flow_gradient"] = gather_flow(model, names, batches[0])
    if "batchnorm_scale" in wanted:
        first = batches[0] if batches else None
        found["batchnorm_scale"] = scales_behind(model, owners(model, names), first)
    return found


def _check_finite(found: _Found) -> None:
    for statistic, tensors in found.items():
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise NonfiniteStatistics(
                    f"{name}: {statistic} holds NaN or infinity; the weights, the data or the loss do too"
                )


def _fields(found: _Found, name: str) -> dict[str, Any]:  # Any: the fields of LayerStatistics differ in type
    return {statistic: tensors[name] for statistic, tensors in found.items()}
