"""Predict what a structure leaves of a model from what the deep check found, without running it."""

import fnmatch
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.spec import Structure
from app.core.tables import JsonObject

_HALVINGS = 40
_Json = Mapping[str, Any]  # Any: what the deep check found, as JSON


@dataclass(frozen=True)
class Prediction:
    """The sizes when every group that may shrink loses the same `fraction` of its units."""

    fraction: float
    parameters: int
    macs: int


def predict(structure: Structure, inspection: JsonObject, *, parameters: int, macs: int) -> Prediction | None:
    """Return what is left when the target is met by equal shares; None where only a run can tell.

    A target that equal shares cannot reach gives the smallest model they can.
    """
    groups = [group for group in inspection.get("groups", ()) if _may_shrink(structure, group)]
    if not groups or structure.target.metric not in ("parameters", "macs", "size_bytes"):
        return None
    layers = inspection["layers"]

    def at(fraction: float) -> Prediction:
        kept = _keep(groups, layers, fraction)
        less = sum(round((1 - kept[layer["name"]]) * layer["parameters"]) for layer in layers)
        saved = sum(round((1 - kept[layer["name"]]) * layer["macs"]) for layer in layers)
        return Prediction(fraction, parameters - less, macs - saved)

    def size(prediction: Prediction) -> float:
        if structure.target.metric == "size_bytes":
            return 4.0 * prediction.parameters
        return float(getattr(prediction, structure.target.metric))

    low, high = 0.0, structure.max_fraction
    if size(at(low)) <= structure.target.value:
        return at(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if size(at(middle)) <= structure.target.value else (middle, high)
    return at(high)


def _may_shrink(structure: Structure, group: _Json) -> bool:
    if group["why_not"] is not None or group["units"] < 2 or group["kind"] not in structure.kinds:
        return False
    names = {cut["tensor"] for cut in group["cuts"]}
    excluded = [row.match for row in structure.layers if row.set.exclude]
    return not any(
        fnmatch.fnmatchcase(name, glob) or fnmatch.fnmatchcase(name.rpartition(".")[0], glob)
        for name in names
        for glob in excluded
    )


def _keep(groups: Sequence[_Json], layers: Sequence[_Json], fraction: float) -> dict[str, float]:
    """Return the share of each tensor that is left, by name: the product over its axes.

    Queries run across the heads along the same axis: a share of each is cut of what the other leaves.
    """
    shapes = {layer["name"]: layer["shape"] for layer in layers}
    gone: defaultdict[tuple[str, int, bool], float] = defaultdict(float)
    for group in groups:
        for cut in group["cuts"]:
            if cut["tensor"] in shapes:
                size = shapes[cut["tensor"]][cut["axis"]]
                share = fraction * group["units"] * cut["positions"] / size
                gone[cut["tensor"], cut["axis"], group["kind"] == "query"] += share
    return {
        name: math.prod(
            1.0 - gone[name, axis, is_across] for axis in range(len(shape)) for is_across in (False, True)
        )
        for name, shape in shapes.items()
    }
