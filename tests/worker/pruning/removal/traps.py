"""Networks of a few named layers and any forward pass over them, and the law that all of them obey."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.worker.pruning.removal.drawing import difference, draw_weights, find_and_prove, halve
from worker.pruning.removal.groups import Group
from worker.pruning.removal.surgery import plan_removal
from worker.pruning.removal.tracer import Axis


class Functional(nn.Module):
    """Layers by name, and a forward pass over them."""

    def __init__(self, forward: Callable[[nn.ModuleDict, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self.layers, x)


def conv(c_in: int, c_out: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, groups=groups)


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 6, 6, generator=torch.Generator().manual_seed(3))


def by_name(groups: tuple[Group, ...]) -> dict[str, Group]:
    return {group.name.removeprefix("layers.").removesuffix(".weight"): group for group in groups}


def study(model: nn.Module, x: Tensor) -> dict[str, Group]:
    """Prove the groups of a model, and that half of everything can go at once."""
    draw_weights(model)
    groups = find_and_prove(model, x)
    assert difference(model, halve(model, groups), x) <= 1e-5
    return by_name(groups)


def scrutinise(model: nn.Module, *args: Tensor, seeds: int = 6) -> dict[str, Group]:
    """Prove the groups of a model, and that any unit by itself can go, and random halves of everything."""
    draw_weights(model)
    groups = find_and_prove(model, *args)
    for group in groups:
        for unit in range(group.units if group.is_removable else 0):
            kept = torch.arange(group.units) != unit
            removal = plan_removal(model, groups, {group.name: kept})
            assert difference(model, removal, *args) <= 1e-5, (group.name, unit)
    for seed in range(seeds):
        assert difference(model, halve(model, groups, seed), *args) <= 1e-5, seed
    return by_name(groups)


def free_units(groups: dict[str, Group], layer: str, axis: int = 0) -> list[int]:
    """Return the positions along an axis of a layer's weight that can be cut, sorted."""
    return sorted(
        position
        for group in groups.values()
        if group.is_removable
        for cut in group.cuts
        if cut.where == Axis(f"layers.{layer}.weight", axis)
        for position in cut.index.reshape(-1).tolist()
    )
