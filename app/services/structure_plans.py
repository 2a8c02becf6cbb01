"""Predict what a structure leaves of a model from what the deep check found, without running it."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.spec import Structure
from app.core.tables import JsonObject
from app.services.structure_bounds import Bounds, find_bounds

_HALVINGS = 40
# A hair more than a share of units, since 0.29 * 100 is 28.999…
_HAIR = 1e-9
# What is exported is float32.
BYTES_A_PARAMETER = 4


@dataclass(frozen=True)
class Prediction:
    """The sizes when every group loses the same `fraction` of its units, within its bounds.

    They are the smallest there are where the target is not reached.
    """

    fraction: float
    parameters: int
    macs: int
    is_reached: bool


def predict(
    structure: Structure, inspection: JsonObject, *, parameters: int, macs: int, overhead_bytes: int = 0
) -> Prediction | str:
    """Return what is left when the target is met as the ranking `local` meets it, by equal shares.

    `overhead_bytes` are those of the model's file besides its parameters. Only a reason comes back where it
    takes a run to tell.
    """
    metric = structure.target.metric
    if metric not in ("parameters", "macs", "size_bytes"):
        return f"follows from the target on {metric} when the job runs"
    bounds = find_bounds(structure, inspection)
    if not bounds:
        return "nothing of the model may be cut, as far as the check of the model tells"
    if structure.ranking == "uniform" and any(row.set.exclude is None for row in structure.layers):
        return "rows bound groups that the ranking keeps at one size: what is left is known when the job runs"

    def at(fraction: float, gone: Sequence[int]) -> Prediction:
        left, products = _count_left(inspection, bounds, gone, parameters=parameters, macs=macs)
        size_bytes = BYTES_A_PARAMETER * left + overhead_bytes
        size = {"parameters": left, "macs": products, "size_bytes": size_bytes}[metric]
        return Prediction(fraction, left, products, is_reached=size <= structure.target.value)

    return _find_first(bounds, at)


def _find_first(bounds: Sequence[Bounds], at: Callable[[float, Sequence[int]], Prediction]) -> Prediction:
    """Return the first prediction that reaches its target as shares grow, or the last one."""
    low, high = 0.0, 1.0
    least, most = (_count_gone(bounds, fraction) for fraction in (low, high))
    if (first := at(low, least)).is_reached:
        return first
    if not (last := at(high, most)).is_reached:
        return last
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if at(middle, gone := _count_gone(bounds, middle)).is_reached:
            high, most = middle, gone
        else:
            low, least = middle, gone
    # What goes at one share of several groups goes group by group.
    for number, count in enumerate(most):
        least[number] = count
        if (found := at(high, least)).is_reached:
            return found
    return at(high, most)


def _count_gone(bounds: Sequence[Bounds], fraction: float) -> list[int]:
    """Count the units that are gone of each group when the same share is due of all."""
    gone = []
    for bound in bounds:
        due = math.floor(fraction * bound.units * (1 + _HAIR))
        left = bound.units - min(max(due, bound.low), bound.high)
        gone.append(bound.units - min(-(-left // bound.multiple) * bound.multiple, bound.units))
    return gone


def _count_left(
    inspection: JsonObject, bounds: Sequence[Bounds], gone: Sequence[int], *, parameters: int, macs: int
) -> tuple[int, int]:
    """Count parameters and products with so many units gone of each group.

    Products that no layer does are those of attention, and go with the heads.
    """
    layers = inspection["layers"]
    kept = _keep(layers, bounds, gone)
    less = sum(round((1 - kept[layer["name"]]) * layer["parameters"]) for layer in layers)
    saved = sum(round((1 - kept[layer["name"]]) * layer["macs"]) for layer in layers)
    rest = macs - sum(layer["macs"] for layer in layers)
    heads = math.prod(_average_left(inspection, bounds, gone, kind) for kind in ("head", "query"))
    return parameters - less, macs - saved - round((1 - heads) * rest)


def _keep(layers: Sequence[Any], bounds: Sequence[Bounds], gone: Sequence[int]) -> dict[str, float]:
    """Return the share of each tensor that is left, by name: the product over its axes.

    Queries run across the heads along the same axis: a share of each is cut of what the other leaves.
    """
    shapes = {layer["name"]: layer["shape"] for layer in layers}
    cut_away: defaultdict[tuple[str, int, bool], float] = defaultdict(float)
    for bound, count in zip(bounds, gone, strict=True):
        for cut in bound.group["cuts"]:
            if cut["tensor"] in shapes:
                share = count * cut["positions"] / shapes[cut["tensor"]][cut["axis"]]
                cut_away[cut["tensor"], cut["axis"], bound.group["kind"] == "query"] += share
    return {
        name: math.prod(
            1.0 - cut_away[name, axis, is_across] for axis in range(len(shape)) for is_across in (False, True)
        )
        for name, shape in shapes.items()
    }


def _average_left(inspection: JsonObject, bounds: Sequence[Bounds], gone: Sequence[int], kind: str) -> float:
    """Return the mean share that is left of all groups of a kind, those that may not be cut among them."""
    groups = sum(group["kind"] == kind for group in inspection["groups"])
    lost = sum(
        count / bound.units for bound, count in zip(bounds, gone, strict=True) if bound.group["kind"] == kind
    )
    return 1.0 - lost / groups if groups else 1.0
