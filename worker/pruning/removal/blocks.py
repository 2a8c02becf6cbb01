"""Whole blocks as units: which of them may go, each proven by itself, and how many."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from worker.pruning.layers import Layer, find_layers
from worker.pruning.recipe import LayerRow
from worker.pruning.removal.check import Run, find_faults
from worker.pruning.removal.depth import BlockList, Depth
from worker.pruning.removal.groups import Cut, Group
from worker.pruning.removal.ranking import Limits
from worker.pruning.removal.stacks import Stack, find_stacks, list_undeclared
from worker.pruning.removal.surgery import Removal
from worker.pruning.rows import EXCLUDED, read_rows

Reasons = Mapping[str, str]


def find_block_groups(model: nn.Module, run: Run, kept: Reasons) -> tuple[Group, ...]:
    """Return a group for every stack, of the blocks that may go, and one for each reason why others stay.

    A block may go when the model without it computes what the model computes that passes it by, which is
    tried. `kept` says of blocks, by their names, why they stay in any case.
    """
    groups: list[Group] = []
    for stack in find_stacks(model, run, list_undeclared(model)):
        why_not = _prove(model, _mark(stack, kept), run)
        free = [number for number in range(stack.blocks) if number not in why_not]
        if free:
            groups.append(_make_group(stack.name, stack.name, free))
        for reason in dict.fromkeys(why_not.values()):
            numbers = sorted(number for number, why in why_not.items() if why == reason)
            name = f"{stack.name}[{numbers[0]}]"
            groups.append(replace(_make_group(name, stack.name, numbers), why_not=reason))
    return tuple(groups)


def list_excluded(model: nn.Module, rows: Sequence[LayerRow]) -> Reasons:
    """Return the blocks in which a layer is excluded by a row, by their names; raises NoMatch."""
    layers = find_layers(model)
    wishes = read_rows(rows, layers)
    excluded = [layer.name for layer in layers if wishes[layer.name].is_excluded]
    names = {name for one in excluded for name in _list_blocks_around(one)}
    return dict.fromkeys(sorted(names), EXCLUDED)


def list_kept(groups: Sequence[Group], removal: Removal) -> Reasons:
    """Return the blocks that had to stay before a removal, by the names that they have after it."""
    reasons: dict[str, str] = {}
    for group in groups:
        for name in list_names(group):
            now = removal.rename(name)
            if now is not None and group.why_not is not None:
                reasons[now] = group.why_not
    return reasons


def list_names(group: Group) -> tuple[str, ...]:
    """Return the names of the blocks of a group; none where its units are no blocks."""
    return tuple(
        f"{cut.where.name}.{number}"
        for cut in group.cuts
        if isinstance(cut.where, BlockList)
        for number in cut.index.reshape(-1).tolist()
    )


def limit_blocks(groups: Sequence[Group], units: Mapping[str, int], max_fraction: float) -> dict[str, Limits]:
    """Return how many blocks of each group may go now, of the `units` that it had at first.

    One block of a stack always stays, which may be one that has to.
    """
    limits = {}
    for group in groups:
        at_first = units.get(group.name, group.units)
        others_stay = any(other.owner == group.owner and not other.is_removable for other in groups)
        most = min(round(max_fraction * at_first), at_first if others_stay else at_first - 1)
        limits[group.name] = Limits(0, max(most - (at_first - group.units), 0))
    return limits


def layers_of(model: nn.Module, group: Group) -> dict[str, list[Layer]]:
    """Return the layers that can be scored of each block of a group, by the block's name."""
    layers = [layer for layer in find_layers(model) if layer.is_prunable]
    return {
        name: [layer for layer in layers if layer.name.startswith(f"{name}.")] for name in list_names(group)
    }


def _mark(stack: Stack, kept: Reasons) -> Stack:
    """Add to a stack the reasons that come from outside of it."""
    marked = {
        number: kept[f"{stack.name}.{number}"]
        for number in range(stack.blocks)
        if f"{stack.name}.{number}" in kept
    }
    return replace(stack, why_not=marked | dict(stack.why_not))


def _prove(model: nn.Module, stack: Stack, run: Run) -> dict[int, str]:
    """Return the reasons why blocks have to stay, those that trying brings out among them."""
    free = [number for number in range(stack.blocks) if number not in stack.why_not]
    depths = [
        Depth(stack.name, tuple(other for other in range(stack.blocks) if other != number), stack.blocks)
        for number in free
    ]
    faults = find_faults(model, depths, run)
    return dict(stack.why_not) | {
        number: fault for number, fault in zip(free, faults, strict=True) if fault is not None
    }


def _make_group(name: str, stack: str, numbers: Sequence[int]) -> Group:
    return Group(name, "block", (Cut(BlockList(stack), torch.tensor(numbers)[:, None]),))


def _list_blocks_around(tensor: str) -> list[str]:
    """Return every name before a number in the name of a tensor, with the number: a.0.b.1.c gives two."""
    path = tensor.split(".")
    return [".".join(path[: place + 1]) for place, part in enumerate(path) if part.isdigit()]
