"""Check what must hold after every round: pruned weights are zero, and all weights are numbers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from app.core.errors import DivergedTraining, SparsityLost


@torch.no_grad()
def check_sparsity(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise SparsityLost, naming the layer, when a weight that its mask prunes is not zero."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        pruned = mask.numel() - int(mask.count_nonzero())
        revived = int(parameters[name].masked_select(~mask).count_nonzero())
        if revived:
            raise SparsityLost(
                f"{name}: expected {pruned} of {mask.numel()} weights pruned, found {pruned - revived}"
            )


@torch.no_grad()
def check_finite(module: nn.Module, *, when: str) -> None:
    """Raise DivergedTraining, naming the tensor, when one is not finite: the last update shows in no loss."""
    for name, value in module.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise DivergedTraining(f"{name} is not finite {when}")
