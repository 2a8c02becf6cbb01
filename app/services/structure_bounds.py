"""What a structure lets each group of a model lose, by the rules that the pruning library keeps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.errors import ErrorItem
from app.core.spec import Structure
from app.core.tables import JsonObject
from app.services.layer_rows import CONTRADICTORY, Layer, Wish, merge_rows

_Json = Mapping[str, Any]  # Any: what the deep check found, as JSON
# Their tensors have the outputs along their second axis.
_OUTPUTS_LAST = ("Conv1D", "Embedding")


@dataclass(frozen=True)
class Bounds:
    """How many units of a group have to go, and how many may; what stays is a `multiple`, or all of it."""

    group: _Json
    low: int
    high: int
    multiple: int

    @property
    def units(self) -> int:
        units: int = self.group["units"]
        return units


def find_bounds(structure: Structure, inspection: JsonObject) -> tuple[Bounds, ...]:
    """Return what may go of each group that the structure may cut, in the order of the model."""
    return tuple(_limit(structure, one) for one in _ask(structure, inspection) if one.excluded is None)


def find_group_faults(structure: Structure, inspection: JsonObject) -> list[ErrorItem]:
    """Find rows that ask for what cannot be of layers that are cut together, one fault a group at most."""
    details = filter(None, (_find_fault(structure, one) for one in _ask(structure, inspection)))
    return [ErrorItem(pointer="/structure/layers", code=CONTRADICTORY, detail=detail) for detail in details]


@dataclass(frozen=True)
class _Asked:
    """What the rows ask of a group: the most that the layer `must` has to lose, the least that `may` may."""

    group: _Json
    outputs: tuple[int, ...]
    must: str
    low: float
    may: str
    high: float
    excluded: str | None


def _ask(structure: Structure, inspection: JsonObject) -> list[_Asked]:
    """Put together what the rows ask of each group that can be cut and is of the kinds asked for."""
    layers = {layer["name"]: layer for layer in inspection["layers"]}
    wishes = {
        name: merge_rows(structure.layers, layer) for name, layer in layers.items() if layer["prunable"]
    }
    return [
        _merge(group, layers, wishes)
        for group in inspection.get("groups", ())
        if group["why_not"] is None and group["kind"] in structure.kinds
    ]


def _merge(group: _Json, layers: Mapping[str, Layer], wishes: Mapping[str, Wish]) -> _Asked:
    cuts = [cut for cut in group["cuts"] if cut["tensor"] in layers]
    outputs = {
        cut["tensor"]: cut["positions"] for cut in cuts if cut["axis"] == _find_output(layers[cut["tensor"]])
    }
    # A group whose makers no row can speak of has one range all the same, without a name.
    ranges = {name: _find_range(wishes[name]) for name in outputs if name in wishes} or {"": (0.0, 1.0)}
    must = max(ranges, key=lambda name: ranges[name][0])
    may = min(ranges, key=lambda name: ranges[name][1])
    members = {cut["tensor"] for cut in cuts}
    return _Asked(
        group=group,
        outputs=tuple(outputs.values() or [cut["positions"] for cut in group["cuts"]]),
        must=must,
        low=ranges[must][0],
        may=may,
        high=ranges[may][1],
        excluded=min((n for n in members if n in wishes and wishes[n].is_excluded), default=None),
    )


def _find_output(layer: Layer) -> int:
    return 1 if layer["type"] in _OUTPUTS_LAST else 0


def _find_range(wish: Wish) -> tuple[float, float]:
    if wish.fixed_sparsity is not None:
        return wish.fixed_sparsity, wish.fixed_sparsity
    return wish.min_sparsity, wish.max_sparsity


def _find_fault(structure: Structure, asked: _Asked) -> str | None:
    units, kind = asked.group["units"], asked.group["kind"]
    if asked.low > asked.high:
        return (
            f"{asked.must} is to lose at least {asked.low:g} of its {kind}s, but is cut together with "
            f"{asked.may}, which is to lose at most {asked.high:g}"
        )
    if asked.excluded is not None and asked.low > 0.0:
        return (
            f"{asked.must} is to lose {asked.low:g} of its {kind}s, but is cut together with "
            f"{asked.excluded}, which is excluded"
        )
    limits = _limit(structure, asked)
    if asked.excluded is None and limits.low > limits.high:
        return (
            f"{asked.group['name']} has {units} {kind}s, and what the rows and max_fraction leave of them is "
            f"no multiple of {structure.multiple_of} outputs: change the rows or multiple_of"
        )
    return None


def _limit(structure: Structure, asked: _Asked) -> Bounds:
    units = asked.group["units"]
    multiple = _count_units(asked.outputs, structure.multiple_of)
    high = max(asked.low, min(asked.high, structure.max_fraction))
    most = min(round(high * units), units - 1)
    least = min(round(asked.low * units), most)
    largest = units if least == 0 else (units - least) // multiple * multiple
    smallest = min(-(-(units - most) // multiple) * multiple, units)
    return Bounds(asked.group, units - largest, units - smallest, multiple)


def _count_units(outputs: Sequence[int], multiple_of: int) -> int:
    """Return of how many units a multiple has to stay, where a unit is so many outputs of each layer."""
    return math.lcm(*(multiple_of // math.gcd(multiple_of, count) for count in outputs))
