"""In what order units go: by importance, among those that compete, within the bounds of each group."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.pruning.errors import ContradictoryRows
from worker.pruning.removal.groups import Group
from worker.pruning.removal.recipe import Ranking
from worker.pruning.removal.tracer import Axis


@dataclass(frozen=True)
class Limits:
    """How many units of a group have to go, and how many may; what stays is a `multiple`, or all of it."""

    low: int
    high: int
    multiple: int = 1


Unit = tuple[int, int]


@dataclass(frozen=True)
class Order:
    """Units as (group, unit) in the steps in which they go; the first `forced` steps in any case.

    A step is one unit, or one of every group where these keep equal sizes. `multiples` are of units, one a
    group.
    """

    groups: tuple[Group, ...]
    steps: tuple[tuple[Unit, ...], ...]
    forced: int
    multiples: tuple[int, ...]

    def count_units(self, count: int) -> int:
        """Return how many units are gone after the first `count` steps."""
        return sum(int((~mask).sum()) for mask in self.keep(count).values())

    def keep(self, count: int) -> dict[str, Tensor]:
        """Return what is kept after the first `count` steps, bool [units] by group name.

        Of groups whose size would be no multiple, those that go last stay.
        """
        gone: dict[int, list[int]] = defaultdict(list)
        for step in self.steps[:count]:
            for owner, unit in step:
                gone[owner].append(unit)
        kept = {}
        for number, group in enumerate(self.groups):
            removed = gone[number]
            left = group.units - len(removed)
            left = min(_round_up(left, self.multiples[number]), group.units)
            mask = torch.ones(group.units, dtype=torch.bool)
            mask[removed[: group.units - left]] = False
            kept[group.name] = mask
        return kept


def find_limits(units: int, *, low: float, high: float, multiple: int = 1) -> Limits:
    """Return limits in units from fractions of a group of so many, to the nearest unit; one always stays.

    They are such that what stays is a multiple, or everything where nothing has to go. Where no such size
    lies between the fractions, the low limit is over the high one.
    """
    most = min(round(high * units), units - 1)
    least = min(round(low * units), most)
    largest = units if least == 0 else (units - least) // multiple * multiple
    smallest = min(_round_up(units - most, multiple), units)
    return Limits(units - largest, units - smallest, multiple)


def order_units(
    groups: Sequence[Group],
    scores: Mapping[str, Tensor],
    limits: Mapping[str, Limits],
    *,
    ranking: Ranking,
) -> Order:
    """Order the units of all groups, the least important first, ties by group and position.

    Within a group the order is always that of the scores. Raises ContradictoryRows where groups that keep one
    size have limits that do not meet.
    """
    if ranking == "uniform":
        return _order_evenly(groups, scores, limits)
    keys = _compare(groups, scores, ranking)
    everyone = sorted(
        (key, group, unit) for group, values in enumerate(keys) for unit, key in enumerate(values)
    )
    counts = [0] * len(groups)
    forced: list[tuple[Unit, ...]] = []
    free: list[tuple[Unit, ...]] = []
    for _, number, unit in everyone:
        limit = limits[groups[number].name]
        if counts[number] < limit.high:
            (forced if counts[number] < limit.low else free).append(((number, unit),))
            counts[number] += 1
    return Order(tuple(groups), (*forced, *free), len(forced), _list_multiples(groups, limits))


def _order_evenly(
    groups: Sequence[Group], scores: Mapping[str, Tensor], limits: Mapping[str, Limits]
) -> Order:
    """Take one unit of every group of one make and size at a time, all makes at an equal pace."""
    classes: dict[object, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        classes[_make_of(group), group.units].append(number)
    forced: list[tuple[Unit, ...]] = []
    free: list[tuple[float, int, tuple[Unit, ...]]] = []
    for members in classes.values():
        low, high = _join([groups[number] for number in members], limits)
        orders = [scores[groups[number].name].argsort(stable=True).tolist() for number in members]
        for rank in range(high):
            step = tuple((number, order[rank]) for number, order in zip(members, orders, strict=True))
            if rank < low:
                forced.append(step)
            else:
                free.append(((rank + 1) / len(orders[0]), members[0], step))
    steps = (*forced, *(step for *_, step in sorted(free)))
    return Order(tuple(groups), steps, len(forced), _list_multiples(groups, limits))


def _join(groups: Sequence[Group], limits: Mapping[str, Limits]) -> tuple[int, int]:
    """Return how many units have to go, and how many may, of each of several groups of one size."""
    must = max(groups, key=lambda group: limits[group.name].low)
    may = min(groups, key=lambda group: limits[group.name].high)
    low, high = limits[must.name].low, limits[may.name].high
    if low > high:
        raise ContradictoryRows(
            f"{must.name} has to lose at least {low} of its {must.kind}s and {may.name} may lose at most "
            f"{high}, but the ranking 'uniform' keeps them at one size: give both one bound, or another "
            "ranking"
        )
    return low, high


def _list_multiples(groups: Sequence[Group], limits: Mapping[str, Limits]) -> tuple[int, ...]:
    return tuple(limits[group.name].multiple for group in groups)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _compare(groups: Sequence[Group], scores: Mapping[str, Tensor], ranking: Ranking) -> list[list[float]]:
    """Return numbers that order units across groups, one list a group."""
    shares = []
    for group in groups:
        values = scores[group.name].double()
        if group.kind == "block":
            # A mean over few blocks, often one or two, says less than the scores themselves.
            shares.append(values)
            continue
        # Scores may be negative, as grasp's are: their mean could be, too, and would turn the order round.
        shares.append(values / values.abs().mean().clamp_min(torch.finfo(torch.float64).tiny))
    if ranking == "global":
        return [share.tolist() for share in shares]
    classes: dict[object, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        classes[number if ranking == "local" else _make_of(group)].append(number)
    keys: list[list[float]] = [[] for _ in groups]
    for members in classes.values():
        joined = torch.cat([shares[number] for number in members])
        ranks = torch.empty_like(joined)
        ranks[joined.argsort(stable=True)] = torch.arange(1, len(joined) + 1, dtype=torch.float64)
        start = 0
        for number in members:
            keys[number] = (ranks[start : start + groups[number].units] / len(joined)).tolist()
            start += groups[number].units
    return keys


def _make_of(group: Group) -> object:
    """Describe the make of a group: its kind and what its cuts run through, whatever the layers' numbers."""
    cuts = []
    for cut in group.cuts:
        if isinstance(cut.where, Axis):
            parts = [part for part in cut.where.tensor.split(".") if not part.isdigit()]
            cuts.append((".".join(parts[-2:]), cut.where.axis, cut.index.shape[1]))
    return group.kind, tuple(sorted(set(cuts)))
