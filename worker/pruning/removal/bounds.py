"""What a structure lets each group lose: by the kinds it names, its rows, and its largest fraction."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from worker.pruning.errors import ContradictoryRows
from worker.pruning.layers import Layer, find_layers
from worker.pruning.removal.depth import BlockList
from worker.pruning.removal.groups import Cut, Group
from worker.pruning.removal.ranking import Limits, find_limits
from worker.pruning.removal.recipe import Structure
from worker.pruning.removal.surgery import Removal
from worker.pruning.removal.tracer import Axis, Knob
from worker.pruning.rows import Wish, read_rows

# A kind, where a group lies, and a position there; a group's name, and the number of one of its units.
_Place = tuple[str, Axis | Knob | BlockList, int]
_Unit = tuple[str, int]
# A channel of each of its groups was one unit: what now is a unit is a part of that.
_IS_DEPTHWISE = "became depthwise in an earlier round: one channel of each group is left"


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
    """Return what may go of each group now, by its name; fractions are of the `units` it had at first.

    Raises ContradictoryRows where no multiple lies within what the rows ask for.
    """
    layers = find_layers(model)
    wishes = read_rows(structure.layers, layers)
    limits = {}
    for group in groups:
        at_first = units.get(group.name, group.units)
        whole, gone = _limit(group, structure, layers, wishes, units=at_first), at_first - group.units
        limits[group.name] = Limits(max(whole.low - gone, 0), max(whole.high - gone, 0), whole.multiple)
    return limits


def keep_names(found: Sequence[Group], at_first: Sequence[Group], removal: Removal) -> tuple[Group, ...]:
    """Give the groups of a model that was cut the names that they had before: those of positions moved.

    `removal` is what was cut since the groups `at_first` were found. Groups of blocks stay as they are. One
    whose units were one unit before is refused.
    """
    units: dict[_Place, _Unit] = {}
    for group in at_first:
        if (cut := _find_own_cut(group)) is not None:
            for number, positions in enumerate(cut.index.tolist()):
                units.update({(group.kind, cut.where, one): (group.name, number) for one in positions})
    return tuple(_rename(group, units, removal) for group in found)


def find_makers(group: Group, layers: Sequence[Layer]) -> dict[str, int]:
    """Return the tensors whose outputs are the units of a group, and how many outputs of each a unit is.

    They come in the order of the group's cuts.
    """
    outputs = {Axis(name, layer.output_dim) for layer in layers for name in (layer.name, *layer.aliases)}
    return {
        cut.where.tensor: cut.index.shape[1]
        for cut in group.cuts
        if isinstance(cut.where, Axis) and cut.where in outputs
    }


def _rename(group: Group, units: Mapping[_Place, _Unit], removal: Removal) -> Group:
    if (cut := _find_own_cut(group)) is None:
        return group
    firsts = cut.index[:, 0]
    if isinstance(cut.where, Axis) and cut.where in removal.kept:
        firsts = removal.kept[cut.where][firsts]
    owners = [units.get((group.kind, cut.where, first)) for first in firsts.tolist()]
    known = [owner for owner in owners if owner is not None]
    why_not = group.why_not if len(set(known)) == len(known) else _IS_DEPTHWISE
    name = group.name if owners[0] is None else owners[0][0]
    return replace(group, name=name, why_not=why_not)


def _find_own_cut(group: Group) -> Cut | None:
    """Return the cut of the tensor that a group is named after."""
    for cut in group.cuts:
        if isinstance(cut.where, Axis) and cut.where.tensor == group.owner:
            return cut
    return None


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


def _limit(
    group: Group, structure: Structure, layers: Sequence[Layer], wishes: Mapping[str, Wish], *, units: int
) -> Limits:
    makers = find_makers(group, layers)
    wish = _merge(group, makers, wishes)
    # What a row asks for goes before the largest fraction, which is there for all groups.
    low, high = wish.min_sparsity, max(wish.min_sparsity, min(wish.max_sparsity, structure.max_fraction))
    multiple = _count_units(group, makers, structure.multiple_of)
    limits = find_limits(units, low=low, high=high, multiple=multiple)
    if limits.low > limits.high:
        asked = find_limits(units, low=low, high=high)
        raise ContradictoryRows(
            f"{group.name} has to keep {units - asked.high} to {units - asked.low} of its {units} "
            f"{group.kind}s by the rows and max_fraction, which is no multiple of {structure.multiple_of} "
            "outputs: change the rows or multiple_of"
        )
    return limits


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


def _count_units(group: Group, makers: Mapping[str, int], multiple_of: int) -> int:
    """Return of how many units a multiple has to stay, so that each maker has a multiple of outputs.

    A head is as many outputs as it is wide, so that fewer of them make one.
    """
    outputs = makers.values() or [cut.index.shape[1] for cut in group.cuts]
    return math.lcm(*(multiple_of // math.gcd(multiple_of, count) for count in outputs))


def _list_asked(makers: Iterable[str], wishes: Mapping[str, Wish]) -> list[str]:
    return [name for name in makers if name in wishes]
