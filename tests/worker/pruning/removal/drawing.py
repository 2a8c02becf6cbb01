"""Weights for tests of removal, and the removal of about half of everything."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from worker.pruning.removal.check import compare, prove
from worker.pruning.removal.groups import Group, find_groups
from worker.pruning.removal.surgery import Removal, plan_removal

Run = Callable[[nn.Module], object]


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int = 0) -> None:
    """Draw weights that keep signals alive; scales of norms and variances near one, so that all matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point() or "inv_freq" in name:
            continue
        if tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2.0 / fan_in) ** 0.5)
        elif name.endswith(("running_var", "weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.75)
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def find_and_prove(model: nn.Module, *args: Tensor) -> tuple[Group, ...]:
    """Return the proven groups of a model of positional inputs."""
    return prove(model, find_groups(model, *args), lambda one: one(*args))


def halve(model: nn.Module, groups: Sequence[Group], seed: int = 0) -> Removal:
    """Plan to remove a random half of the units of every group that can be cut."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in groups:
        if group.is_removable:
            gone = torch.randperm(group.units, generator=generator)[: group.units // 2]
            kept[group.name] = torch.ones(group.units, dtype=torch.bool).index_fill(0, gone, False)
    return plan_removal(model, groups, kept)


def difference(model: nn.Module, removal: Removal, *args: Tensor) -> float:
    """Return the difference between masked and removed for positional inputs."""
    return compare(model, removal, lambda one: one(*args))
