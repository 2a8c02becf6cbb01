"""What a structure lets each group lose: by the kinds it names, its rows, and its largest fraction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from worker.pruning.errors import ContradictoryRows
from worker.pruning.layers import Layer, find_layers
from worker.pruning.removal.groups import Group
from worker.pruning.removal.ranking import Limits, find_limits
from worker.pruning.removal.recipe import Structure
from worker.pruning.removal.tracer import Axis
from worker.pruning.rows import Wish, read_rows


def mark_groups(model: nn.Module, groups: Sequence[Group], structure: Structure) -> tuple[Group, ...]:
    """Say of each group that could be cut why this structure does not: its kind, or a layer that is excluded.

    Raises NoMatch, and ContradictoryRows where layers that are cut together are asked for what cannot be.
    """
    layers = find_layers(model)
    wishes = read_rows(structure.layers, layers)
    return tuple(_mark(group, structure, layers, wishes) for group in groups)


def limit_groups(
    model: nn.Module, groups: Sequence[Group], structure: Structure, units: Mapping[str, int]
) -> dict[str, Limits]:
    """Return what may go of each group now, by its name; fractions are of the `units` it had at first."""
    layers = find_layers(model)
    wishes = read_rows(structure.layers, layers)
    limits = {}
    for group in groups:
        at_first = units.get(group.name, group.units)
        wish = _merge(group, find_makers(group, layers), wishes)
        # What a row asks for goes before the largest fraction, which is there for all groups.
        most = max(wish.min_sparsity, min(wish.max_sparsity, structure.max_fraction))
        whole, gone = find_limits(at_first, low=wish.min_sparsity, high=most), at_first - group.units
        limits[group.name] = Limits(max(whole.low - gone, 0), max(whole.high - gone, 0))
    return limits


def find_makers(group: Group, layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return the names of the tensors whose outputs are the units of a group, in the order of its cuts."""
    outputs = {Axis(name, layer.output_dim) for layer in layers for name in (layer.name, *layer.aliases)}
    makers = [cut.where.tensor for cut in group.cuts if isinstance(cut.where, Axis) and cut.where in outputs]
    return tuple(dict.fromkeys(makers))


def _mark(group: Group, structure: Structure, layers: Sequence[Layer], wishes: Mapping[str, Wish]) -> Group:
    if not group.is_removable:
        return group
    if group.kind not in structure.kinds:
        return replace(group, why_not=f"is a {group.kind}, and {', '.join(structure.kinds)} are asked for")
    makers = find_makers(group, layers)
    wish = _merge(group, makers, wishes)
    members = {cut.where.tensor for cut in group.cuts if isinstance(cut.where, Axis)}
    excluded = sorted(name for name in members if name in wishes and wishes[name].is_excluded)
    if not excluded:
        return group
    if wish.min_sparsity > 0.0:
        asking = max(_list_asked(makers, wishes), key=lambda name: wishes[name].min_sparsity)
        raise ContradictoryRows(
            f"{asking} is to lose {wish.min_sparsity:g} of its {group.kind}s, but is cut together with "
            f"{excluded[0]}, which is excluded"
        )
    return replace(group, why_not=f"is cut together with {excluded[0]}, which is excluded by the recipe")


def _merge(group: Group, makers: Iterable[str], wishes: Mapping[str, Wish]) -> Wish:
    """Return what the rows ask of a group: the most that any layer must lose, the least that any may."""
    asked = _list_asked(makers, wishes)
    if not asked:
        return Wish()
    must = max(asked, key=lambda name: wishes[name].min_sparsity)
    may = min(asked, key=lambda name: wishes[name].max_sparsity)
    low, high = wishes[must].min_sparsity, wishes[may].max_sparsity
    if low > high:
        raise ContradictoryRows(
            f"{must} is to lose at least {low:g} of its {group.kind}s, but is cut together with {may}, which "
            f"is to lose at most {high:g}"
        )
    return Wish(min_sparsity=low, max_sparsity=high)


def _list_asked(makers: Iterable[str], wishes: Mapping[str, Wish]) -> list[str]:
    return [name for name in makers if name in wishes]
