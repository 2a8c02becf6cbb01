"""From weights to groups and back, for any pattern: reduce scores, find kept groups, make masks."""

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.pruning.protocols import Pattern, Reduction, Unit


def reduce_scores(pattern: Pattern, unit: Unit, scores: Mapping[str, Tensor]) -> Tensor:
    """Reduce scores, by layer name and of the layers' shapes, to one a group: float [groups]."""
    laid_out = [pattern.lay_out(unit, layer, scores[layer.name]) for layer in unit.layers]
    if unit.group_size == 1:
        return laid_out[0].reshape(-1)
    return _reduce(torch.cat(laid_out, dim=1) if len(laid_out) > 1 else laid_out[0], pattern.reduction)


def kept_groups(pattern: Pattern, unit: Unit, masks: Mapping[str, Tensor]) -> Tensor:
    """Say which groups still have a weight, bool [groups]; it may share the masks' memory."""
    if unit.group_size == 1:
        (layer,) = unit.layers
        return pattern.lay_out(unit, layer, masks[layer.name]).reshape(-1)
    kept = torch.zeros(unit.groups, dtype=torch.bool, device=unit.layers[0].weight.device)
    for layer in unit.layers:
        kept |= pattern.lay_out(unit, layer, masks[layer.name]).any(dim=1)
    return kept


def make_masks(pattern: Pattern, unit: Unit, kept: Tensor) -> dict[str, Tensor]:
    """Spread kept groups, bool [groups], to a mask of each layer's shape, by name, on the layer's device."""
    return {layer.name: pattern.spread(unit, layer, kept.to(layer.weight.device)) for layer in unit.layers}


def _reduce(groups: Tensor, reduction: Reduction) -> Tensor:
    match reduction:
        case "mean":
            return groups.mean(dim=1)
        case "sum":
            return groups.sum(dim=1)
        case "l2":
            norms: Tensor = torch.linalg.vector_norm(groups, dim=1)
            return norms
        case "max":
            return groups.amax(dim=1)
